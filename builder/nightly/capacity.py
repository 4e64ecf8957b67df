"""Decide how many builds this host runs at a time.

Invariant: they fit into the host together, even if each grows as large as its recipe allows.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.recipe import Recipe
from builder.system import host_facts

MEMINFO = Path("/proc/meminfo")
# For builder and QEMU beside the guest's memory, and for install media beside the disk; in bytes.
OWN_MEMORY = 512 << 20
OWN_DISK = 3 << 30
# Verification boots two copies of the image side by side.
COPIES = 2


@dataclass(frozen=True)
class Capacity:
    """Number of builds that run at a time, and what limits it.

    Args:
        limit: `cores`, `memory`, `disk`, `builds`, `--jobs`, or words for people.
    """

    jobs: int
    limit: str


def memory_of(recipe: Recipe) -> int:
    """Return the bytes of memory that a build needs at most."""
    return COPIES * recipe.machine.memory + OWN_MEMORY


def host_capacity(recipes: Sequence[Recipe], jobs: int | None, directory: Path, meminfo: Path = MEMINFO) -> Capacity:
    """Return how many builds may run at a time: as many as cores, memory and disk hold, and at least one.

    Args:
        jobs: run at most so many, one core each; None for as many as there are cores for with all their processors.
        directory: where they are built.
    """
    memory = max((memory_of(recipe) for recipe in recipes), default=OWN_MEMORY)
    disk = max((recipe.disk.size + OWN_DISK for recipe in recipes), default=OWN_DISK)
    # Builds may share processors if --jobs asks for it: that costs time; too little memory or disk costs the build.
    cores = 1 if jobs else max((recipe.machine.vcpus for recipe in recipes), default=1)
    available = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(encoding="ascii"), re.M)
    limits = {
        "builds": max(1, len(recipes)),
        "memory": int(available[1]) * 1024 // memory if available else 1,
        "disk": shutil.disk_usage(_existing(directory)).free // disk,
        "cores": host_facts.cpu_count() // cores,
    }
    if jobs is not None:
        limits["--jobs"] = jobs
    lowest = min(limits, key=lambda name: limits[name])
    return Capacity(max(1, limits[lowest]), lowest)


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.is_dir())
