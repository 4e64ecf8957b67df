# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The hub: checks that every mandatory item is there before an install begins, and asks for those that are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import log, payload
from .disk import decide, plan
from .disk.layout import Layout, StorageError
from .parse import KickstartError, constants
from .selection import Selection, Table, choose
from .ui import CmdlineError, ExitError, Ui

PROMPT = "  Please make your choice from above ['q' to quit | 'b' to begin installation |\n  'r' to refresh]: "


@dataclass(frozen=True)
class Ready:
    """Everything that the installation proper needs."""

    layout: Layout
    selection: Selection


def _storage(ks: Any, ui: Ui, disks: list[Any], machine: decide.Machine) -> Layout | None:
    ui.say("Generating updated storage configuration")
    if not (ks.autopart.autopart or ks.partition.partitions or ks.logvol.lvList):
        return None
    try:
        layout = decide.layout(ks, disks, machine)
    except (StorageError, KickstartError) as error:
        log.error("anaconda", f"storage configuration failed: {error}")
        ui.say(f"storage configuration failed: {error}")
        return None
    ui.say("Checking storage configuration...")
    errors, warnings = plan.check(
        layout, efi=machine.efi, memory=machine.memory, loader=ks.bootloader.location != "none"
    )
    for text in errors:
        log.error("anaconda", text)
        ui.say(text)
    for text in warnings:
        log.write("WARNING", "anaconda", text)
        ui.say(text)
    return None if errors else layout


def _software(ks: Any, table: Table, ui: Ui, layout: Layout | None) -> Selection:
    packages = ks.packages
    required = ["grub2", "grub2-tools", "xfsprogs", "e2fsprogs"]
    if {"auth", "authconfig"} & ks.seen_commands:
        required.append("authconfig")
    if "firewall" in ks.seen_commands:
        required.append("firewalld")
    if "timezone" in ks.seen_commands and not ks.timezone.nontp:
        required.append("chrony")
    if layout is not None and layout.groups:
        required.append("lvm2")
    selection = choose(
        table,
        packages=packages.packageList,
        groups=[group.name for group in packages.groupList],
        excluded=packages.excludedList,
        excluded_groups=[group.name for group in packages.excludedGroupList],
        environment=packages.environment,
        core=not packages.nocore,
        required=required,
    )
    if packages.handleMissing == constants.KS_MISSING_IGNORE:
        for name in (*selection.missing_groups, *selection.missing):
            log.write("WARNING", "packaging", f"not available, ignored: {name}")
        return selection
    for name in selection.missing_groups:
        text = f"You have specified that the group '{name}' should be installed.  This group does not exist.  "
        text += "Would you like to ignore this group and continue with installation?"
        ui.agree(text, f"Missing group: {name}")
    for name in selection.missing:
        text = f"You have specified that the package '{name}' should be installed.  This package does not exist.  "
        text += "Would you like to ignore this package and continue with installation?"
        ui.agree(text, f"Missing package: {name}")
    return selection


def _root_set(ks: Any) -> bool:
    administrators = any("wheel" in user.groups and user.password for user in ks.user.userList)
    return bool(ks.rootpw.password or ks.rootpw.lock or administrators)


def _ask(ui: Ui, incomplete: list[str]) -> None:
    titles = [
        *("Language support", "Timezone settings", "Installation source", "Software selection"),
        *("Installation Destination", "Root password", "User creation"),
    ]
    ui.say("=" * 80)
    ui.say("Installation\n")
    for number, title in enumerate(titles, start=1):
        ui.say(f" {number}) [{'!' if title in incomplete else 'x'}] {title}")
    ui.say()
    while True:
        answer = ui.ask(PROMPT).strip().lower()
        if answer == "q":
            raise ExitError("the user quit")
        if answer == "b" and not incomplete:
            return


def run(ks: Any | None, table: Table, ui: Ui, disks: list[Any], machine: decide.Machine) -> Ready:
    """Work the whole kickstart out, and come back when the installation can begin.

    Raises:
        CmdlineError: something would have to be asked in cmdline mode.
        ExitError: the user quit.
    """
    if ks is None:
        _ask(ui, ["Software selection", "Installation Destination", "Root password"])
        raise ExitError("this installer needs a kickstart")
    layout = _storage(ks, ui, disks, machine)
    incomplete = [] if layout is not None else ["Installation Destination"]
    incomplete += [] if _root_set(ks) else ["Root password"]
    selection = None
    if ks.packages.seen:
        selection = _software(ks, table, ui, layout)
    else:
        incomplete.append("Software selection")
    if incomplete:
        for title in incomplete:
            log.info("anaconda", f"kickstart installation stopped for info: {title}")
        if ui.cmdline:
            raise CmdlineError("The following mandatory spokes are not completed:\n" + "\n".join(incomplete))
        _ask(ui, incomplete)
    assert layout is not None
    assert selection is not None
    _room(layout, ui)
    return Ready(layout, selection)


def _room(layout: Layout, ui: Ui) -> None:
    root = next(each for each in layout.formatted if each.request.mount == "/")
    lack = payload.needed() - root.size
    if lack <= 0:
        return
    text = "Not enough space in file systems for the current software selection. "
    text += f"An additional {lack} MiB is needed."
    log.error("anaconda", text)
    ui.say(text)
    if not ui.cmdline:
        ui.say("Enter 'b' to ignore the warning and attempt to install anyway.")
        _ask(ui, [])
