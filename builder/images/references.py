"""References to versions of an image from disks that are based on them.

Invariant: a reference is added before anything builds on its version, and dropped after everything else is gone. It is
`.users/<version>/<id>.json` beside the versions; one that cannot be checked counts as in use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from builder.errors import PublishError
from builder.images.catalogue import Image
from builder.system import locks
from builder.system.atomic_file import replacing
from builder.vm import qcow2

FOLDER = ".users"
LOCK = ".users.lock"

State = Literal["there", "gone", "unknown"]


@dataclass(frozen=True)
class User:
    """Something whose disk has a version below it.

    Args:
        id: unique; the name of the entry.
        kind: `clone`.
        name: as people know it.
        disk: the file that needs the version; `<folder of all>/<its folder>/<file>`.
        since: UTC, ISO 8601.
    """

    id: str
    kind: str
    name: str
    disk: str
    since: str

    def state(self) -> State:
        """Return True if the disk still exists. It is gone only if the folder in which its folder stood can be read."""
        path = Path(self.disk)
        try:
            if path.exists():
                return "there"
            list(path.parent.parent.iterdir())
        except OSError:
            return "unknown"
        return "gone"


_USER = TypeAdapter(User)


@dataclass(frozen=True)
class Use:
    """An entry as it was found; `user` is None when the file cannot be read."""

    entry: Path
    user: User | None
    state: State

    @property
    def name(self) -> str:
        """Describe the user of the image, for people."""
        return self.user.name if self.user else self.entry.name


@contextmanager
def using(image: Image) -> Iterator[None]:
    """Keep every version of this name from being removed for the length of the block, and look at its disk's header.

    All who open the disk of an image go through here, for it may come from anywhere.

    Raises:
        PublishError: this one is gone already.
        VerifyError: its disk names another file, or is damaged.
    """
    with locks.held(image.path.parent / LOCK, shared=True):
        try:
            qcow2.require_image(image.disk, f"{image.name}@{image.version}")
        except FileNotFoundError:
            hint = f"builder images list {image.name}"
            raise PublishError(f"{image.name}@{image.version} is gone", hint=hint) from None
        except OSError as fault:
            raise PublishError(f"{image.disk} cannot be read: {fault.strerror}", str(fault)) from fault
        yield


@contextmanager
def removing(folder: Path) -> Iterator[None]:
    """Keep everybody from beginning to use a version of this name for the length of the block."""
    with locks.held(folder / LOCK, holder=f"process {os.getpid()}"):
        yield


def enter(image: Image, user: User) -> None:
    """Enter somebody into the list of a version. Call it inside `using`."""
    folder = image.path.parent / FOLDER / image.version
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{user.id}.json") as file:
        file.write(json.dumps(asdict(user), indent=2).encode() + b"\n")


def leave(folder: Path, version: str, id: str) -> None:  # noqa: A002
    """Strike somebody off the list of a version in this folder, if they are on it."""
    (folder / FOLDER / version / f"{id}.json").unlink(missing_ok=True)


def users_of(image: Image) -> list[Use]:
    """All entries of a version, each with what became of it."""
    return [look(path) for path in sorted((image.path.parent / FOLDER / image.version).glob("*.json"))]


def look(path: Path) -> Use:
    """An entry and what became of it."""
    try:
        user = _USER.validate_json(path.read_bytes())
        return Use(path, user, user.state())
    except FileNotFoundError:
        return Use(path, None, "gone")
    except (OSError, ValueError):
        return Use(path, None, "unknown")
