# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Make the new system one of its release: the files that are the release's own, its name, its units."""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import program
from .facts import Product

TREES = Path("/opt/rehearsal/target")


def os_release(product: Product) -> str:
    """The text of /etc/os-release."""
    version = product.os_version.split()[0]
    named = {
        "NAME": product.os_name,
        "VERSION": product.os_version,
        "ID": product.os_id,
        "ID_LIKE": "rhel centos fedora" if product.os_id not in ("centos", "fedora") else "rhel fedora",
        "VERSION_ID": version,
        "PRETTY_NAME": f"{product.os_name} {product.os_version}, builder rehearsal",
        "VARIANT": "builder rehearsal",
    }
    lines = [f'{name}="{value}"' for name, value in named.items()]
    return "\n".join([*lines, "VARIANT_ID=rehearsal", ""])


def _write(place: Path, text: str) -> None:
    place.unlink(missing_ok=True)
    place.write_text(text)


def lay(product: Product, root: Path) -> None:
    """Lay the release's files over the new system and enable its units.

    Raises:
        ProgramError: systemctl failed.
    """
    for tree in product.release.trees:
        shutil.copytree(TREES / tree, root, dirs_exist_ok=True)
    _write(root / "etc/os-release", os_release(product))
    _write(root / f"etc/{product.os_id}-release", f"{product.system}\n")
    for name in ("redhat-release", "system-release"):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).symlink_to(f"{product.os_id}-release")
    program.run("systemctl", "enable", *product.release.units, root=root)
