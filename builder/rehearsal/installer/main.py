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
    ui.say()
    ui.say(str(error))
    raise PaneDeadError


def _pre(text: str, ui: Ui) -> None:
    try:
        found = parse.pre_scripts(text)
        scripts.run_all(found, ui.say, f"{clock.stamp()} Running pre-installation scripts")
    except (parse.KickstartError, ValueError) as error:
        _bad_kickstart(ui, error)
    except scripts.ScriptError as error:
        # Before there is a user interface no one can be asked: the installer dies of it.
        ui.say(f"There was an error running the kickstart script at line {error.lineno}.\n\n{error.output}")
        raise PaneDeadError from None


def _read(path: Path, ui: Ui, fault: str | None) -> Any:
    text = parse.load(path)
    if fault is not None:
        text = faults.edited(text, fault)
        path.write_text(text, newline="", encoding="utf-8", errors="surrogateescape")
    _pre(text, ui)
    try:
        ks = parse.read(parse.load(path))
        decide.refuse(ks)
    except (parse.KickstartError, ValueError) as error:
        _bad_kickstart(ui, error)
    for said in ks.left_out:
        log.write("WARNING", "anaconda", f"not rehearsed: {said}")
    return ks


def _low_memory(ui: Ui, memory: int) -> None:
    if memory < MIN_RAM:
        ui.say(f"CentOS requires {MIN_RAM} MB of memory to install, but you only have {memory} MB on this machine.\n")
        ui.ask("Press ENTER to continue")


def _failed_script(ui: Ui, error: scripts.ScriptError) -> NoReturn:
    if ui.cmdline:
        ui.script_end(error.lineno)
    text = f"There was an error running the kickstart script at line {error.lineno}.  This is a fatal error and "
    ui.fatal(f"{text}installation will be aborted.  The details of this error are:\n\n{error.output}")


def install(
    ks: Any,
    ready: hub.Ready,
    table: selection.Table,
    args: BootArgs,
    ui: Ui,
    *,
    efi: bool,
    kickstart: Path,
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
        ui.say("Performing post-installation setup tasks")
        storage.bind()
        payload.record(table, ready.selection)
        (ROOT / "etc/fstab").write_text(storage.fstab(ready.layout))
        ui.say("Installing boot loader")
        boot.install(ks, args, ready.layout, efi=efi)
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
        after = [script for script in ks.scripts if script.type == kinds.KS_SCRIPT_POST]
        scripts.run_all(after, ui.say, "Running post-installation scripts")
        scripts.copy_logs(args.nosave, kickstart)
    except scripts.ScriptError as error:
        _failed_script(ui, error)
    scripts.write_result(args.nosave, kickstart)
    # What is newer than these two makes the first boot rebuild its caches.
    for place in ("etc/.updated", "var/.updated"):
        os.utime(ROOT / place)
    storage.release(ready.layout)
    log.info("anaconda", "installation finished")


def _install_packages(ks: Any, ready: hub.Ready, table: selection.Table, ui: Ui, fault: str | None) -> None:
    ui.say("Starting package installation process")
    ui.say("Preparing transaction from installation source")
    try:
        faults.strike(fault)
        payload.install(table, ready.selection, ui.say)
    except program.ProgramError as error:
        text = "The following error occurred while installing.  This is a fatal error and installation will be "
        text += f"aborted.\n\n{error}"
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
        ui.ask("\nInstallation complete.  Press return to quit")
    program.run("sync")
    ui.say("dracut Warning: Killing all remaining processes")
    words = {"poweroff": ("Powering off.", "poweroff"), "halt": ("System halted.", "halt")}
    text, command = words.get(action, ("Rebooting.", "reboot"))
    ui.say(text)
    os.execv(f"{HERE}/busybox", ["busybox", command, "-f"])


def main() -> None:
    """Run the installer on the console; never returns in good cases."""
    args = bootargs.parse(Path("/proc/cmdline").read_text())
    ui = Ui(cmdline=args.given("inst.cmdline", "cmdline"), patience=args.patience)
    log.open_port()
    ks = None
    try:
        lost = args.last("rehearsal.fault") == "kickstart-not-found"
        path = locate.fetch(f"{args.kickstart}.lost" if lost else args.kickstart, ui.say, args.patience)
        fault = faults.name(args)
        ui.say("Starting installer, one moment...")
        ui.say("anaconda 21.48.22.159-1 for CentOS 7 started.")
        ui.say(" * installation log files are stored in /tmp during the installation")
        log.info("anaconda", "anaconda 21.48.22.159-1, as rehearsed by builder")
        efi, memory = Path("/sys/firmware/efi").is_dir(), 256 if fault == "low-memory" else _memory()
        ks = _read(path, ui, fault) if path else None
        if ks is not None and ks.displaymode.displayMode == parse.constants.DISPLAY_MODE_CMDLINE:
            ui.cmdline = True
        _low_memory(ui, memory)
        machine = decide.Machine(efi, memory, args.given("inst.gpt"))
        found = disks.probe(MEDIUM.read_text().strip())
        try:
            usable = decide.usable(ks, found) if ks else found
        except parse.KickstartError as error:
            _bad_kickstart(ui, error)
        ui.say(f"{clock.stamp()} Not asking for VNC because {'of an automated install' if ks else 'of text mode'}")
        if ks is not None:
            ui.say("Starting automated install....")
        table = selection.load(HERE / "table.json")
        try:
            ready = hub.run(ks, table, ui, usable, machine)
            install(ks, ready, table, args, ui, efi=efi, kickstart=locate.PLACE, fault=fault)
        except CmdlineError as error:
            ui.cmdline_end(error)
    except PaneDeadError:
        sys.exit(1)
    except ExitError as end:
        log.info("anaconda", f"leaving: {end}")
        _leave(ks, ui, complete=False)
    except Exception:
        _unknown(ks, ui)
    _leave(ks, ui, complete=True)


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
    while ui.ask("\n 1) Report Bug\n 2) Run shell\n 3) Quit\n\nPlease make your choice from above: ").strip() != "3":
        pass
    _leave(ks, ui, complete=False)
