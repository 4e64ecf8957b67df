"""The one rule: settings say WHERE and HOW FAST, never WHAT; nothing here may enter a digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Accel = Literal["auto", "kvm", "tcg"]


@dataclass(frozen=True)
class Patience:
    """Limits in seconds, meant for a host with KVM; under TCG they are stretched.

    Args:
        install: the whole installation.
        quiet: no sign of life from the installer.
        boot: until an installed system lets root in.
    """

    install: float = 3600
    quiet: float = 600
    boot: float = 300


@dataclass(frozen=True)
class Settings:
    """Where one call of builder works, and with what patience.

    Args:
        artifacts: everything builder makes lives below this folder.
        recipes: folders searched for recipes, first match wins.
        templates: folders searched for kickstart templates, first match wins.
        keys: folders searched for the public keys of vendors.
        connect: libvirt URI; None means qemu:///system for root, qemu:///session for everyone else.
        accel: `auto` takes KVM only where it can be trusted.
        require_kvm: end with exit 9 instead of falling back to TCG.
        keep_failed: leave the machine and the working directory of a failed stage for inspection.
        root_password_file: file holding the root password; None lets builder make one.
        medium_file: take the install medium from this file.
        medium_urls: mirrors to download the install medium from, in order.
        patience: how long to wait for guests.
        learned: how long earlier runs let a guest need at the most, by accelerator; tightens `patience`.
        media_dir: install ISOs are kept here; None means below `artifacts`.
    """

    artifacts: Path
    recipes: tuple[Path, ...]
    templates: tuple[Path, ...]
    keys: tuple[Path, ...] = ()
    connect: str | None = None
    accel: Accel = "auto"
    require_kvm: bool = False
    keep_failed: bool = False
    keep_intermediates: bool = False
    root_password_file: Path | None = None
    medium_file: Path | None = None
    medium_urls: tuple[str, ...] = ()
    patience: Patience = Patience()
    learned: Mapping[str, Patience] = field(default_factory=dict)
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
    def provisions(self) -> tuple[Path, ...]:
        """Folders searched for what recipes provision with: each lies beside one of `recipes`."""
        return tuple(folder.parent / "provision" for folder in self.recipes)

    @property
    def runs(self) -> Path:
        """One folder a run, with its record and its evidence."""
        return self.artifacts / "runs"

    @property
    def media(self) -> Path:
        """Install ISOs, found by name."""
        return self.media_dir or self.artifacts / "media"

    @property
    def uri(self) -> str:
        """The libvirt URI to use."""
        if self.connect is not None:
            return self.connect
        return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"
