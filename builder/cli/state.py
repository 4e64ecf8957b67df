"""The state of one call of builder, and the settings of its command.

An option wins over its environment variable, that over what `host prepare` recorded, and that over the default.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import builder
from builder.errors import RecipeError
from builder.host import config
from builder.settings import Accel, Settings, user_config

PASSWORD_FILE = "BUILDER_ROOT_PASSWORD_FILE"
REQUIRE_SIGNED = "BUILDER_REQUIRE_SIGNED"
# Where state of the host's own services lives (Filesystem Hierarchy Standard, 5.8).
HOST_STATE = Path("/var/lib/builder")


class Watched(Protocol):
    """Part of `builder.console.Watcher` used here; its import would take half of the time --help has."""

    run_id: str
    failure: tuple[str, float, BaseException] | None


@dataclass
class State:
    """State of one call of builder before its command runs, and what the error handler needs afterwards.

    Args:
        artifacts: folder for everything that builder makes.
        media_dir: folder of install ISOs, where one was chosen for this host.
        moved: why `artifacts` is not below the working directory; None unless it was moved for that reason.
        require_signed: only images that a trusted key has signed are taken.
        as_json: one JSON document is wanted on standard output.
        watcher: watches the run that is under way, or was.
    """

    artifacts: Path = field(default_factory=lambda: Path("artifacts"))
    media_dir: Path | None = None
    moved: str | None = None
    require_signed: bool = False
    as_json: bool = False
    watcher: Watched | None = None

    @property
    def evidence(self) -> Path | None:
        """The folder of the run that is under way, or was."""
        folder = self.settings().runs / self.watcher.run_id if self.watcher and self.watcher.run_id else None
        return folder if folder is not None and folder.is_dir() else None

    @property
    def failed_stage(self) -> str | None:
        """The name of the stage that failed."""
        return self.watcher.failure[0] if self.watcher and self.watcher.failure else None

    def locate(self, artifacts: Path | None) -> None:
        """Settle where things live: as asked for, else as recorded for this host, else below the working directory.

        Root's machines run as a user of their own. Below a directory that is closed to it, as /root is, they could
        read nothing: things are then kept in /var/lib/builder.

        Raises:
            RecipeError: the record is damaged, or a setting of images says neither yes nor no.
        """
        recorded = config.load()
        self.media_dir = recorded.media
        self.require_signed = _require_signed()
        self.artifacts = artifacts or recorded.store or Path("artifacts")
        closed = None if artifacts or recorded.store or os.geteuid() != 0 else closed_directory(Path.cwd())
        if closed:
            self.artifacts = HOST_STATE
            self.moved = f"{closed} lets no other user through, QEMU's neither: working in {HOST_STATE}"

    def settings(
        self,
        *,
        connect: str | None = None,
        accel: Accel = "auto",
        require_kvm: bool = False,
        keep_failed: bool = False,
        keep_intermediates: bool = False,
        root_password_file: Path | None = None,
        signing_key: Path | None = None,
    ) -> Settings:
        """Settings of this call; see `builder.settings.Settings` for the arguments."""
        given = os.environ.get(PASSWORD_FILE)
        return Settings(
            artifacts=self.artifacts.absolute(),
            media_dir=self.media_dir,
            recipes=search_path("pipelines"),
            templates=search_path("kickstarts"),
            keys=search_path("keys"),
            connect=connect,
            accel=accel,
            require_kvm=require_kvm,
            keep_failed=keep_failed,
            keep_intermediates=keep_intermediates,
            root_password_file=root_password_file or (Path(given) if given else None),
            signing_key=signing_key,
            require_signed=self.require_signed,
        )


def _require_signed() -> bool:
    """Return whether images have to be signed: as the environment says, else the settings files.

    Raises:
        RecipeError: the variable or a file says neither yes nor no.
    """
    given = os.environ.get(REQUIRE_SIGNED)
    if not given:
        return config.load_require_signed()
    if given not in ("0", "1"):
        raise RecipeError(f"${REQUIRE_SIGNED} is {given!r}", hint="1 demands signatures, 0 does not")
    return given == "1"


def search_path(kind: str) -> tuple[Path, ...]:
    """Folders of recipes (`pipelines`), templates (`kickstarts`) or public `keys`: here, the user's own, packaged."""
    package = Path(builder.__file__).parent
    packaged = package / "share" / kind
    # In a checkout the folders stand beside the package.
    came_along = packaged if packaged.is_dir() else package.parent / kind
    return tuple(dict.fromkeys((Path.cwd() / kind, user_config() / kind, came_along)))


def closed_directory(path: Path) -> Path | None:
    """The topmost directory on the way to `path`, itself included, that other users may not pass."""
    for directory in reversed([path, *path.parents]):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None
