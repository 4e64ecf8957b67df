"""Compare two versions of an image by what was recorded inside their test VMs.

What one of the two has no record of is reported as unknown, not as changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.images.catalogue import Image

# Facts of a copy that are lists, by their name in verify.json and the name for people.
LISTS = {
    "services": "services",
    "users": "users",
    "ports": "listening ports",
    "suid": "SUID files",
    "cmdline": "kernel arguments",
}
# How the copies were run belongs beside the seconds that they took.
VALUES = ("release", "kernel", "accel")
# Differ from machine to machine, not from image to image.
OWN_ARGUMENTS = ("root=", "BOOT_IMAGE=", "initrd=")


@dataclass(frozen=True)
class Changes:
    """Additions, removals and changes of one kind of things; each list is sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[tuple[str, str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.updated)


@dataclass(frozen=True)
class Difference:
    """Two versions side by side.

    Args:
        sets: changes by kind (`packages`, `services`, …); a kind that one has no record of is in `unknown`.
        values: both values of what differs (`kernel`), by name.
        numbers: both numbers, equal ones too: `size` and `virtual_size` in bytes, `boot` in seconds, `packages`.
        stages: seconds of each stage that built it, for both; None where one had no such stage.
        unknown: kinds that cannot be compared, each with the versions that have no record of it.
    """

    old: Image
    new: Image
    sets: Mapping[str, Changes]
    values: Mapping[str, tuple[str, str]]
    numbers: Mapping[str, tuple[float | None, float | None]]
    stages: Mapping[str, tuple[float | None, float | None]]
    unknown: Mapping[str, tuple[str, ...]]

    @property
    def same(self) -> bool:
        """Return whether nothing differs that a user of the image would notice."""
        return not (any(self.sets.values()) or self.values or self.unknown) and self.old.sha256 == self.new.sha256

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kinds = {
            kind: {
                "added": list(one.added),
                "removed": list(one.removed),
                "updated": [{"name": name, "old": old, "new": new} for name, old, new in one.updated],
            }
            for kind, one in self.sets.items()
        }
        pairs = {"values": self.values, "numbers": self.numbers, "stages": self.stages}
        return {
            "old": {"name": self.old.name, "version": self.old.version},
            "new": {"name": self.new.name, "version": self.new.version},
            "same": self.same,
            **kinds,
            **{
                kind: {name: {"old": old, "new": new} for name, (old, new) in both.items()}
                for kind, both in pairs.items()
            },
            "unknown": {kind: list(who) for kind, who in self.unknown.items()},
        }


def compare(old: Image, new: Image) -> Difference:
    """Compare two versions and return what is different in `new`."""
    before, after = _facts(old), _facts(new)
    sets: dict[str, Changes] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    for kind, said in {"packages": "packages", **LISTS}.items():
        missing = tuple(image.version for image, facts in ((old, before), (new, after)) if facts[kind] is None)
        if missing:
            unknown[said] = missing
        elif kind == "packages":
            sets[said] = _versions(before[kind], after[kind])
        else:
            sets[said] = _members(before[kind], after[kind])
    values = {
        name: (str(before.get(name) or "unknown"), str(after.get(name) or "unknown"))
        for name in VALUES
        if before.get(name) != after.get(name)
    }
    numbers = {name: (_number(old, before, name), _number(new, after, name)) for name in NUMBERS}
    one, other = _seconds(old), _seconds(new)
    stages = {name: (one.get(name), other.get(name)) for name in sorted(one.keys() | other.keys())}
    return Difference(old, new, sets, values, numbers, stages, unknown)


NUMBERS = ("size", "virtual_size", "boot", "packages")


def _facts(image: Image) -> dict[str, Any]:
    """Return what the first test VM showed, and how it was run."""
    facts: dict[str, Any] = image.facts.verified.first.model_dump()
    facts["accel"] = image.facts.verified.accel
    if facts["cmdline"] is not None:
        words = facts["cmdline"].split()
        facts["cmdline"] = tuple(word for word in dict.fromkeys(words) if not word.startswith(OWN_ARGUMENTS))
    return facts


def _number(image: Image, facts: Mapping[str, Any], name: str) -> float | None:
    packages = facts["packages"]
    found: dict[str, float | None] = {
        "size": image.size,
        "virtual_size": image.facts.disk.virtual_size,
        "boot": facts["boot_seconds"],
        "packages": None if packages is None else len(packages),
    }
    return found[name]


def _seconds(image: Image) -> dict[str, float]:
    return {name: stage.seconds for name, stage in image.facts.stages.items() if stage.seconds is not None}


def _members(old: Sequence[str], new: Sequence[str]) -> Changes:
    return Changes(tuple(sorted(set(new) - set(old))), tuple(sorted(set(old) - set(new))))


def _versions(old: Sequence[str], new: Sequence[str]) -> Changes:
    """Packages (`name version`); a name may stand there with several versions (kernels, keys)."""
    before, after = _by_name(old), _by_name(new)
    return Changes(
        tuple(f"{name} {after[name]}" for name in sorted(after.keys() - before.keys())),
        tuple(f"{name} {before[name]}" for name in sorted(before.keys() - after.keys())),
        tuple(
            (name, before[name], after[name])
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        ),
    )


def _by_name(packages: Sequence[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for package in packages:
        name, _, version = package.partition(" ")
        found.setdefault(name, []).append(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}
