# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The installer's main program: `install` carries a kickstart out, `main` handles every way it can end.

Invariant: the order of events, and of the lines on the console, is Anaconda's.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from . import (
    boot,
    bootargs,
    clock,
    config,
    faults,
    hub,
    locate,
    log,
    parse,
    payload,
    program,
    scripts,
    selection,
    users,
)
from .bootargs import BootArgs
from .disk import decide, disks, storage, volumes
from .disk.storage import ROOT
from .release import facts, identity
from .release.facts import Product
from .ui import CmdlineError, ExitError, PaneDeadError, Ui

HERE = Path("/opt/rehearsal")
MEDIUM = Path("/run/install/medium")
MIN_RAM = 320


def _memory() -> int:
    """MiB of memory, as Anaconda counts: what the kernel has, rounded up for what it keeps to itself."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return (int(line.split()[1]) >> 10) + 48
    return 0


def _bad_kickstart(ui: Ui, error: Exception) -> NoReturn:
    log.error("anaconda", str(error))
    ui.say(ui.words.bad_kickstart.format(str(error).strip()))
    raise PaneDeadError


def _pre(text: str, ui: Ui, release: facts.Release) -> None:
    try:
        found = parse.pre_scripts(text, release)
        scripts.run_all(found, ui.say, f"{clock.stamp()} Running pre-installation scripts")
    except (parse.KickstartError, ValueError) as error:
        _bad_kickstart(ui, error)
    except scripts.ScriptError as error:
        # Before there is a user interface no one can be asked: the installer dies of it.
        ui.say(ui.words.pre_failed.format(error.lineno, error.output))
        raise PaneDeadError from None


def _read(path: Path, ui: Ui, release: facts.Release, fault: str | None) -> Any:
    text = parse.load(path)
    if fault is not None:
        text = faults.edited(text, fault)
        path.write_text(text, newline="", encoding="utf-8", errors="surrogateescape")
    _pre(text, ui, release)
    try:
        ks = parse.read(parse.load(path), release)
        decide.refuse(ks)
    except (parse.KickstartError, ValueError) as error:
        _bad_kickstart(ui, error)
    for said in ks.left_out:
        log.write("WARNING", "anaconda", f"not rehearsed: {said}")
    return ks


def _low_memory(ui: Ui, memory: int, product: Product) -> None:
    if memory < MIN_RAM:
        text = f"{product.title} requires {MIN_RAM} MB of memory to install, but you only have {memory} MB on this "
        ui.say(f"{text}machine.\n{ui.words.little_memory}")
        ui.ask("Press ENTER to continue")


def _failed_script(ui: Ui, error: scripts.ScriptError, *, asks: bool) -> NoReturn:
    if ui.cmdline and not asks:
        ui.script_end(error.lineno)
    text = f"There was an error running the kickstart script at line {error.lineno}.  This is a fatal error and "
    ui.fatal(f"{text}installation will be aborted.  The details of this error are:\n\n{error.output}", asks=asks)


def install(
    ks: Any,
    ready: hub.Ready,
    table: selection.Table,
    args: BootArgs,
    ui: Ui,
    product: Product,
    *,
    efi: bool,
    fault: str | None = None,
) -> None:
    """Carry everything out.

    Raises:
        ExitError: a fault was shown and acknowledged.
        CmdlineError: the same in cmdline mode.
    """
    ui.say("Progress")
    ui.say("Setting up the installation environment")
    storage.write(ready.layout, ui.say)
    storage.mount(ready.layout)
    kinds = parse.constants
    try:
        before = [script for script in ks.scripts if script.type == kinds.KS_SCRIPT_PREINSTALL]
        scripts.run_all(before, ui.say, "Running pre-installation scripts")
        _install_packages(ks, ready, table, ui, fault)
        said = ("Performing post-installation setup tasks", "Installing boot loader")
        said = said[::-1] if ui.words.loader_first else said
        ui.say(said[0])
        storage.bind()
        identity.lay(product, ROOT)
        payload.record(table, ready.selection, product)
        (ROOT / "etc/fstab").write_text(storage.fstab(ready.layout))
        ui.say(said[1])
        boot.install(ks, args, ready.layout, product, efi=efi)
        ui.say("Configuring installed system")
        units = [unit for name in ready.selection.chosen for unit in table.units.get(name, [])]
        config.apply(ks, units, ready.selection.chosen)
        ui.say("Writing network configuration")
        config.network(ks)
        ui.say("Creating users")
        users.apply(ks)
        ui.say("Configuring addons")
        ui.say("Generating initramfs")
        volumes.initramfs(ready.layout, ROOT)
        if ks.release.result_first:
            ui.say(ui.words.storing)
            scripts.write_result(args.nosave, locate.PLACE)
        after = [script for script in ks.scripts if script.type == kinds.KS_SCRIPT_POST]
        scripts.run_all(after, ui.say, "Running post-installation scripts")
        scripts.copy_logs(args.nosave, locate.PLACE)
    except scripts.ScriptError as error:
        _failed_script(ui, error, asks=ks.release.script_asks)
    if not ks.release.result_first:
        scripts.write_result(args.nosave, locate.PLACE)
    # What is newer than these two makes the first boot rebuild its caches.
    for place in ("etc/.updated", "var/.updated"):
        os.utime(ROOT / place)
    storage.release(ready.layout)
    log.info("anaconda", "installation finished")


def _install_packages(ks: Any, ready: hub.Ready, table: selection.Table, ui: Ui, fault: str | None) -> None:
    hub.ask_late(ui, ready.missing)
    ui.say("Starting package installation process")
    ui.say("Preparing transaction from installation source")
    try:
        faults.strike(fault)
        payload.install(table, ready.selection, ui.say)
    except program.ProgramError as error:
        text = f"{ui.words.no_packages}\n\n{ui.words.packages_failed}{error}"
        if ui.cmdline and ks.release.tells_failures:
            raise CmdlineError(f"{ui.words.unasked}{ui.words.packages_failed}{error}") from None
        if ui.cmdline:
            # Anaconda says nothing here: it leaves a line in the log and the machine goes off.
            log.error("packaging", text)
            _for_failure(ks, parse.constants.KS_SCRIPT_ONERROR)
            raise ExitError("payload") from None
        try:
            ui.fatal(text)
        finally:
            _for_failure(ks, parse.constants.KS_SCRIPT_ONERROR)


def _for_failure(ks: Any, *kinds: int) -> None:
    """Run the kickstart's scripts of these kinds (yumpayload.py, exception.py: runOnErrorScripts)."""
    for kind in kinds:
        scripts.run_quietly([script for script in ks.scripts if script.type == kind] if ks else [])


def _action(ks: Any) -> str:
    if ks is None or not {"poweroff", "shutdown", "reboot", "halt"} & ks.seen_commands:
        return "none"
    kinds = {parse.constants.KS_SHUTDOWN: "poweroff", parse.constants.KS_REBOOT: "reboot"}
    return kinds.get(ks.reboot.action, "halt")


def _leave(ks: Any, ui: Ui, *, complete: bool) -> NoReturn:
    """The exit handler: do what the kickstart says, else wait and reboot."""
    action = _action(ks)
    if complete and action in ("none", "halt") and not ui.cmdline:
        ui.ask(ui.words.complete)
    program.run("sync")
    ui.say("dracut Warning: Killing all remaining processes")
    words = {"poweroff": ("Powering off.", "poweroff"), "halt": ("System halted.", "halt")}
    text, command = words.get(action, ("Rebooting.", "reboot"))
    ui.say(text)
    os.execv(f"{HERE}/busybox", ["busybox", command, "-f"])


def main() -> None:
    """Run the installer on the console; never returns in good cases."""
    product = facts.product(facts.PLACE.read_text())
    release = product.release
    args = bootargs.parse(Path("/proc/cmdline").read_text(), bare=release.bare_options)
    ui = Ui(cmdline=args.option("cmdline"), patience=args.patience, words=release.words)
    log.open_port()
    ks = None
    try:
        lost = args.last("rehearsal.fault") == "kickstart-not-found"
        path = locate.fetch(f"{args.kickstart}.lost" if lost else args.kickstart, ui.say, args.patience, ui.words)
        fault = faults.name(args)
        ui.say("Starting installer, one moment...")
        ui.say(f"anaconda {product.installer} for {product.title} {product.version} started.")
        ui.say(" * installation log files are stored in /tmp during the installation")
        log.info("anaconda", f"anaconda {product.installer}, as rehearsed by builder")
        efi, memory = Path("/sys/firmware/efi").is_dir(), 256 if fault == "low-memory" else _memory()
        ks = _read(path, ui, release, fault) if path else None
        if ks is not None and ks.displaymode.displayMode == parse.constants.DISPLAY_MODE_CMDLINE:
            ui.cmdline = True
        _low_memory(ui, memory, product)
        machine = decide.Machine(efi, memory, release.gpt or args.given("inst.gpt"))
        found = disks.probe(MEDIUM.read_text().strip())
        try:
            usable = decide.usable(ks, found) if ks else found
        except parse.KickstartError as error:
            _bad_kickstart(ui, error)
        why = "of an automated install" if ks else "of text mode"
        ui.say(f"{clock.stamp()} Not asking for {ui.words.screen} because {why}")
        if ks is not None:
            ui.say("Starting automated install....")
        table = selection.load(HERE / product.table)
        try:
            ready = hub.run(ks, table, ui, usable, machine, product)
            install(ks, ready, table, args, ui, product, efi=efi, fault=fault)
        except CmdlineError as error:
            _stop(ks, ui, error)
    except PaneDeadError:
        sys.exit(1)
    except ExitError as end:
        log.info("anaconda", f"leaving: {end}")
        _leave(ks, ui, complete=False)
    except Exception:
        _unknown(ks, ui)
    _leave(ks, ui, complete=True)


def _stop(ks: Any, ui: Ui, error: CmdlineError) -> NoReturn:
    """Stop where something would have to be asked; from EL8 on the scripts for a failure run then (exception.py)."""
    kinds = (parse.constants.KS_SCRIPT_ONERROR, parse.constants.KS_SCRIPT_TRACEBACK)
    ui.cmdline_end(error, lambda: _for_failure(ks, *(kinds if ks is not None and ks.release.tells_failures else ())))


def _unknown(ks: Any, ui: Ui) -> NoReturn:
    """A fault of the installer itself, or of the kickstart while it is carried out: said as Anaconda says it.

    The scripts for it run once the trace is written, which cmdline mode does not do. (exception.py: handleException,
    postWriteHook.)
    """
    trace = traceback.format_exc()
    log.write("CRIT", "anaconda", trace)
    if ui.cmdline:
        ui.no_debugging(str(sys.exc_info()[1]))
        _leave(ks, ui, complete=False)
    Path("/tmp/anaconda-tb-rehearsal").write_text(trace)
    ui.say("\nAn unknown error has occured, look at the /tmp/anaconda-tb* file(s) for more details")
    _for_failure(ks, parse.constants.KS_SCRIPT_ONERROR, parse.constants.KS_SCRIPT_TRACEBACK)
    ui.say(trace)
    # The last choice is to quit.
    while ui.ask(ui.words.choice).strip() != ("4" if "4) Quit" in ui.words.choice else "3"):
        pass
    _leave(ks, ui, complete=False)
