"""Install media of several shapes, each made once a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from builder.iso import remaster as iso
from builder.iso.boot_menu import Menu
from builder.iso.remaster import RemasterReport
from tests.fakes import vendor

ARGUMENTS = (
    rf"inst.ks=hd:LABEL={vendor.ESCAPED}:/ks.cfg",
    "inst.nosave=all",
    "console=tty0",
    "console=ttyS0,115200",
    "net.ifnames=0",
    "biosdevname=0",
)
KICKSTART = b"cdrom\npoweroff\n"

Press = Callable[[vendor.Shape], Path]
Remaster = Callable[..., RemasterReport]


@pytest.fixture(scope="session")
def press(tmp_path_factory: pytest.TempPathFactory) -> Press:
    """Gives the medium of a shape. Nobody writes to it."""
    made: dict[vendor.Shape, Path] = {}

    def get(shape: vendor.Shape) -> Path:
        if shape not in made:
            folder = tmp_path_factory.mktemp("medium")
            (folder / "tree").mkdir()
            vendor.tree(folder / "tree", shape)
            made[shape] = vendor.press(folder / "tree", folder / "medium.iso", shape)
        return made[shape]

    return get


@pytest.fixture(scope="session")
def medium(press: Press) -> Path:
    """The vendor's medium as it is."""
    return press(vendor.Shape())


@pytest.fixture
def remaster(tmp_path: Path) -> Remaster:
    """Remasters into a file of its own."""
    count = 0

    def make(
        source: Path,
        kickstart: bytes = KICKSTART,
        arguments: Sequence[str] = ARGUMENTS,
        menu: Menu = "unattended",
        when: datetime | None = None,
    ) -> RemasterReport:
        nonlocal count
        count += 1
        output = tmp_path / f"remastered-{count}.iso"
        return iso.remaster(source, output, kickstart=kickstart, kernel_args=arguments, menu=menu, when=when)

    return make
