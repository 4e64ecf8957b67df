# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Choose packages by their EL7 names; a name that is not in the table is a missing package.

The table (`table.json`) records for each name whether the base system has it, whether Packages/ has it, or whether it
is known but has no files here (firmware, for instance).
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """Packages and groups of the medium.

    Args:
        groups: names of the packages of each group.
        environments: groups of each environment.
        always: installed whatever is chosen.
        more: known, and only installed when asked for.
        present: EL7 name to the base system's package.
        debs: EL7 name to the package in Packages/.
        removable: names that are taken out of the base system when they are not chosen.
        units: services of a name, enabled when it is chosen.
        unclaimed: names that the new system's rpm does not know, for a kickstart's script would rely on them.
    """

    groups: dict[str, list[str]]
    environments: dict[str, list[str]]
    always: list[str]
    more: list[str]
    present: dict[str, str]
    debs: dict[str, str]
    removable: list[str]
    units: dict[str, list[str]]
    unclaimed: list[str]

    @property
    def names(self) -> set[str]:
        """Every known name."""
        return {*self.always, *self.more, *(name for names in self.groups.values() for name in names)}


def load(path: Path) -> Table:
    """Read the table."""
    raw: dict[str, Any] = json.loads(path.read_text())
    raw.pop("about", None)
    return Table(**raw)


@dataclass(frozen=True)
class Selection:
    """Packages to be installed.

    Args:
        chosen: EL7 names, sorted.
        missing: names asked for that the medium does not have, in the kickstart's order.
        missing_groups: the same for groups and environments.
    """

    chosen: tuple[str, ...]
    missing: tuple[str, ...]
    missing_groups: tuple[str, ...]


def choose(
    table: Table,
    *,
    packages: Iterable[str],
    groups: Iterable[str],
    excluded: Iterable[str],
    excluded_groups: Iterable[str] = (),
    environment: str | None = None,
    core: bool = True,
    required: Iterable[str] = (),
) -> Selection:
    """Work a %packages section out.

    Args:
        packages: additions, may be patterns; a pattern that matches nothing is missing too.
        excluded: exclusions, may be patterns; an unknown one is ignored.
        core: @core is installed, which only --nocore prevents.
        required: what Anaconda adds by itself; it yields to an exclusion.
    """
    excluded, excluded_groups = list(excluded), {name.casefold() for name in excluded_groups}
    wanted_groups = [*(["core"] if core else []), *groups]
    missing_groups = []
    if environment is not None:
        if environment.casefold() in table.environments:
            wanted_groups += table.environments[environment.casefold()]
        else:
            missing_groups.append(environment)
    chosen, missing = set(table.always), []
    for group in wanted_groups:
        # yum does not tell @Core from @core (3.4.3, yum/comps.py: return_groups).
        if group.casefold() in table.groups:
            if group.casefold() not in excluded_groups:
                chosen |= set(table.groups[group.casefold()])
        elif group not in missing_groups:
            missing_groups.append(group)
    chosen |= set(required) & table.names
    gone = {name for pattern in excluded for name in fnmatch.filter(table.names, pattern)}
    chosen -= gone - set(table.always)
    for name in packages:
        found = fnmatch.filter(table.names, name)
        if found:
            chosen |= set(found) - gone
        elif name not in missing:
            missing.append(name)
    return Selection(tuple(sorted(chosen)), tuple(missing), tuple(missing_groups))
