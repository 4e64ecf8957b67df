# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The hub: checks that every mandatory item is there before an install begins, and asks for those that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import config, log, payload
from .disk import decide, plan
from .disk.layout import Layout, StorageError
from .parse import KickstartError, constants
from .release.facts import Product, Release
from .release.words import IGNORE, Words
from .selection import Selection, Table, choose
from .ui import CmdlineError, ExitError, Ui

STORAGE, PASSWORD, SOFTWARE = "Installation Destination", "Root password", "Software selection"


@dataclass(frozen=True)
class Ready:
    """Everything that the installation proper needs.

    Args:
        missing: the text of what the medium does not have, which is asked about late.
    """

    layout: Layout
    selection: Selection
    missing: str = ""


def _storage(ks: Any, ui: Ui, disks: list[Any], machine: decide.Machine, product: Product) -> tuple[Layout | None, str]:
    """The layout, if there is a good one, and the state of the item."""
    done, insufficient, wrong = ui.words.told or ("", "", "")
    ui.say("Generating updated storage configuration")
    if not (ks.autopart.autopart or ks.partition.partitions or ks.logvol.lvList):
        return None, insufficient
    try:
        layout = decide.layout(ks, disks, machine)
    except (StorageError, KickstartError) as error:
        log.error("anaconda", f"storage configuration failed: {error}")
        ui.say(ui.words.storage_failed.format(error))
        return None, insufficient
    ui.say("Checking storage configuration...")
    errors, warnings = plan.check(
        layout,
        efi=machine.efi,
        memory=machine.memory,
        loader=ks.bootloader.location != "none",
        product=product.os_name,
    )
    for text in errors:
        log.error("anaconda", text)
        ui.say(text)
    for text in warnings:
        log.write("WARNING", "anaconda", text)
        ui.say(text)
    return (None, wrong) if errors else (layout, done)


def _software(ks: Any, table: Table, layout: Layout | None) -> Selection:
    packages = ks.packages
    required = ["grub2", "grub2-tools", "xfsprogs", "e2fsprogs"]
    if config.AUTHENTICATION & ks.seen_commands:
        required.append(ks.release.authentication)
    if "firewall" in ks.seen_commands:
        required.append("firewalld")
    if "timezone" in ks.seen_commands and not getattr(ks.timezone, "nontp", False):
        required.append("chrony")
    if layout is not None and layout.groups:
        required.append("lvm2")
    return choose(
        table,
        packages=packages.packageList,
        groups=[group.name for group in packages.groupList],
        excluded=packages.excludedList,
        excluded_groups=[group.name for group in packages.excludedGroupList],
        environment=packages.environment,
        core=not packages.nocore,
        required=required,
    )


def _missing(ks: Any, ui: Ui, selection: Selection) -> str:
    """Ask about what the medium does not have; return the text of it where that is asked about later."""
    groups, names = selection.missing_groups, selection.missing
    if ks.packages.handleMissing == constants.KS_MISSING_IGNORE:
        for name in (*groups, *names):
            log.write("WARNING", "packaging", f"not available, ignored: {name}")
        return ""
    if not ui.words.missing:
        for kind, name in (*(("group", name) for name in groups), *(("package", name) for name in names)):
            text = f"You have specified that the {kind} '{name}' should be installed.  This {kind} does not exist.  "
            text += f"Would you like to ignore this {kind} and continue with installation?"
            ui.agree(text, f"Missing {kind}: {name}")
        return ""
    lines = [ui.words.missing]
    lines += [f"missing packages: {', '.join(names)}"] if names else []
    lines += [f"missing groups or modules: {', '.join(groups)}"] if groups else []
    text = "\n".join(lines) if names or groups else ""
    if text and not ks.release.asks_late:
        ui.agree(f"{text}\n\n{IGNORE}", f"{ui.words.unasked}{text}")
    return text if ks.release.asks_late else ""


def ask_late(ui: Ui, text: str) -> None:
    """Ask about what is missing when packages are about to be installed."""
    if text:
        asked = f"The following error occurred during the installation:\n\n{text}\n\n{IGNORE}"
        ui.agree(asked, f"{ui.words.unasked}{text}")


def _root_set(ks: Any) -> bool:
    administrators = any("wheel" in user.groups and user.password for user in ks.user.userList)
    return bool(ks.rootpw.password or ks.rootpw.lock or administrators)


def _rows(words: Words, incomplete: Mapping[str, str]) -> list[str]:
    """The list of items, each with its state below it where the release shows states."""
    rows = []
    width = 80 // words.columns
    items = list(enumerate(words.titles, start=1))
    for first in range(0, len(items), words.columns):
        row = items[first : first + words.columns]
        heads = [f"{number}) [{'!' if title in incomplete else 'x'}] {title}" for number, title in row]
        rows.append("".join(f" {head}".ljust(width) for head in heads).rstrip())
        if words.told is not None:
            states = [f"        ({incomplete.get(title) or words.told[0]})" for _, title in row]
            rows.append("".join(state.ljust(width) for state in states).rstrip())
    return rows


def _ask(ui: Ui, incomplete: Mapping[str, str]) -> None:
    ui.say("=" * 80)
    ui.say("Installation\n")
    for row in _rows(ui.words, incomplete):
        ui.say(row)
    ui.say()
    while True:
        answer = ui.ask(ui.words.hub).strip().lower()
        if answer == "q":
            raise ExitError("the user quit")
        if answer == "b" and not incomplete:
            return


def run(ks: Any | None, table: Table, ui: Ui, disks: list[Any], machine: decide.Machine, product: Product) -> Ready:
    """Work the whole kickstart out, and come back when the installation can begin.

    Raises:
        CmdlineError: something would have to be asked in cmdline mode.
        ExitError: the user quit.
    """
    if ks is None:
        _ask(ui, dict.fromkeys((SOFTWARE, STORAGE, PASSWORD), ""))
        raise ExitError("this installer needs a kickstart")
    layout, state = _storage(ks, ui, disks, machine, product)
    incomplete = {} if layout is not None else {STORAGE: state}
    incomplete |= {} if _root_set(ks) else {PASSWORD: "Root account is disabled"}
    selection, missing = None, ""
    if ks.packages.seen:
        selection = _software(ks, table, layout)
        missing = _missing(ks, ui, selection)
    else:
        incomplete[SOFTWARE] = "Nothing selected"
    if incomplete:
        for title in incomplete:
            log.info("anaconda", f"kickstart installation stopped for info: {title}")
        if ui.cmdline:
            raise CmdlineError("The following mandatory spokes are not completed:\n" + "\n".join(incomplete))
        _ask(ui, incomplete)
    assert layout is not None
    assert selection is not None
    _room(layout, ui, ks.release)
    return Ready(layout, selection, missing)


def _room(layout: Layout, ui: Ui, release: Release) -> None:
    root = next(each for each in layout.formatted if each.request.mount == "/")
    lack = payload.needed() - root.size
    if lack <= 0 or (ui.cmdline and release.space == "passed over"):
        return
    text = "Not enough space in file systems for the current software selection. "
    text += f"An additional {lack} MiB is needed."
    if ui.cmdline and release.space == "ends":
        raise CmdlineError(text)
    log.error("anaconda", text)
    ui.say(text)
    if not ui.cmdline:
        ui.say("Enter 'b' to ignore the warning and attempt to install anyway.")
        _ask(ui, {})
