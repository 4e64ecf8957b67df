"""Settings of one call of builder, and the options of one build.

Invariant: they say where and how fast, never what; nothing in here may enter a digest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Accel = Literal["auto", "kvm", "tcg"]

# Time limits are written for KVM; a guest whose every instruction is translated gets this much more.
TCG_FACTOR = 4.0


def user_config() -> Path:
    """Return builder's folder in the user's configuration (XDG Base Directory Specification 0.8: `~/.config`)."""
    # A user without a home is no reason to stop: Path.expanduser would raise.
    home = os.path.expanduser("~/.config")  # noqa: PTH111
    return _absolute([os.environ.get("XDG_CONFIG_HOME", "")], home) / "builder"


def host_config() -> Path:
    """Return builder's folder in the configuration of the whole host (the same specification: `/etc/xdg`)."""
    return _absolute(os.environ.get("XDG_CONFIG_DIRS", "").split(os.pathsep), "/etc/xdg") / "builder"


def _absolute(paths: Sequence[str], default: str) -> Path:
    """Return the first path; the specification has those ignored that are not absolute."""
    return Path(next(filter(os.path.isabs, paths), default))


@dataclass(frozen=True)
class Paths:
    """Directories and files that a run works with.

    Args:
        artifacts: everything builder makes lives below this folder.
        recipes: folders searched for recipes, first match wins.
        templates: folders searched for kickstart templates, first match wins.
        keys: folders searched for the public keys of vendors.
        media_dir: install ISOs are kept here; None means below `artifacts`.
    """

    artifacts: Path
    recipes: tuple[Path, ...]
    templates: tuple[Path, ...]
    keys: tuple[Path, ...] = ()
    media_dir: Path | None = None

    @property
    def store(self) -> Path:
        """The content store (`builder.store.store.Store`)."""
        return self.artifacts / ".store"

    @property
    def images(self) -> Path:
        """The catalogue of golden images (`builder.images`)."""
        return self.artifacts / "images"

    @property
    def vms(self) -> Path:
        """The folder of clones (`builder.clones.workspace.Workspace`)."""
        return self.artifacts / "vms"

    @property
    def provisions(self) -> tuple[Path, ...]:
        """Folders searched for what recipes provision with: each lies beside one of `recipes`."""
        return tuple(folder.parent / "provision" for folder in self.recipes)

    @property
    def runs(self) -> Path:
        """Return the folder of the runs: one a run, with its record and its evidence."""
        return self.artifacts / "runs"

    @property
    def media(self) -> Path:
        """Install ISOs, found by name."""
        return self.media_dir or self.artifacts / "media"


@dataclass(frozen=True)
class HostOptions:
    """Settings for running VMs on this host.

    Args:
        connect: libvirt URI; None means qemu:///system for root, qemu:///session for everyone else.
        accel: `auto` takes KVM only where it can be trusted.
        require_kvm: end with exit 9 instead of falling back to TCG.
        keep_failed: leave the machine and the working directory of a failed stage for inspection.
    """

    connect: str | None = None
    accel: Accel = "auto"
    require_kvm: bool = False
    keep_failed: bool = False

    @property
    def uri(self) -> str:
        """The libvirt URI to use."""
        if self.connect is not None:
            return self.connect
        return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"


@dataclass(frozen=True)
class Settings(HostOptions, Paths):
    """Everything that the command line, the environment and the host's configuration decide.

    Functions ask for the half that they need: `Paths` or `HostOptions`.

    Args:
        keep_intermediates: keep the remastered ISO and the raw disk.
        root_password_file: file holding the root password; None lets builder make one.
        signing_key: private key that signs the provenance of images; None leaves it unsigned.
        require_signed: pull, clone and build on those images only that a trusted key has signed.
    """

    keep_intermediates: bool = False
    root_password_file: Path | None = None
    signing_key: Path | None = None
    require_signed: bool = False


@dataclass(frozen=True)
class MediumSource:
    """Source of the install medium of one build.

    Args:
        file: taken from here; None means that it is downloaded, or is in the store already.
        urls: mirrors, in the order in which they are tried.
    """

    file: Path | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timeouts:
    """Time limits of one build in seconds, for a host with KVM.

    Args:
        install: the whole installation.
        quiet: no sign of life from the installer, or no output of a command.
        boot: until an installed system lets root in.
    """

    install: float = 3600
    quiet: float = 600
    boot: float = 300

    def scaled_for(self, accel: str) -> Timeouts:
        """Return the limits for this accelerator: `kvm` or `tcg`."""
        factor = TCG_FACTOR if accel == "tcg" else 1.0
        return Timeouts(self.install * factor, self.quiet * factor, self.boot * factor)


@dataclass(frozen=True)
class OwnKickstart:
    """Somebody's own kickstart and the files beside it, by name.

    They may hold passwords: no record has them, and only their MAC enters a digest.
    """

    text: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """All of it as one text, to make a MAC of."""
        return "\0".join([self.text, *(f"{name}\0{self.files[name].hex()}" for name in sorted(self.files))])


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build that do not change its result beyond the stages' inputs."""

    medium: MediumSource = field(default_factory=MediumSource)
    timeouts: Timeouts = field(default_factory=Timeouts)
    own: OwnKickstart | None = None


def inside(folder: Path, name: str) -> Path | None:
    """Return the file of this name below a folder, with all links resolved; None when that leaves the folder.

    No part of the way may lead out, and the folder itself may not be a link: both come with a repository, as its files
    do. Above the folder links may be.
    """
    try:
        root = folder.parent.resolve() / folder.name
        found = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):
        # A circle of links, or a name that no file can have.
        return None
    return found if found.is_relative_to(root) else None
