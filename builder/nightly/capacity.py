"""The one rule: builds that run at a time fit into the host together, as large as their recipes let them become."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.recipe import Recipe
from builder.system import host_facts

MEMINFO = Path("/proc/meminfo")
# Of builder and QEMU beside the guest's memory, and of install media beside the disk.
OWN_MEMORY = 512 << 20
OWN_DISK = 3 << 30
# The proof boots two copies side by side.
TWINS = 2


@dataclass(frozen=True)
class Room:
    """How many builds at a time, and what kept it from being more."""

    jobs: int
    why: str


def memory_of(recipe: Recipe) -> int:
    """Bytes that a build needs at most."""
    return TWINS * recipe.machine.memory + OWN_MEMORY


def room(recipes: Sequence[Recipe], asked: int | None, directory: Path, meminfo: Path = MEMINFO) -> Room:
    """How many of the builds may run at a time: never more than cores, memory and disk hold, and at least one.

    Args:
        asked: at most so many, with a core each; None for as many as there are cores for with all their processors.
        directory: where they are built.
    """
    memory = max((memory_of(recipe) for recipe in recipes), default=OWN_MEMORY)
    disk = max((recipe.disk.size + OWN_DISK for recipe in recipes), default=OWN_DISK)
    # Processors may be shared by who wants it so: that costs time, where too little memory or disk costs the build.
    cores = 1 if asked else max((recipe.machine.vcpus for recipe in recipes), default=1)
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(encoding="ascii"), re.M)
    bounds = {
        "builds": max(1, len(recipes)),
        "memory": int(found[1]) * 1024 // memory if found else 1,
        "disk": shutil.disk_usage(_existing(directory)).free // disk,
        "cores": host_facts.cpu_count() // cores,
    }
    if asked is not None:
        bounds["--jobs"] = asked
    least = min(bounds, key=lambda name: bounds[name])
    return Room(max(1, bounds[least]), least)


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.is_dir())
