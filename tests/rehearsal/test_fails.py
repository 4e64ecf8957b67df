"""The rehearsal fails as Anaconda does: the same messages, and the machine stays up or goes off as the real one would.

This is EL7's column of the table; that of the later releases is in test_fails_later.py.

Each row names where its expectation was read: a bare file name is one of Anaconda's rhel7-branch, 21.48.22.159 (the
installer of 7.9), below pyanaconda/.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_table import FaultRow
from tests.rehearsal.failing import GOOD, Installers, Row, row_fails
from tests.rehearsal.failing import kickstart as _ks

pytestmark = pytest.mark.vm

VOLUMES = "part pv.1 --size=900\nvolgroup v pv.1\nlogvol / --vgname=v --name=r --size=2000"
HUB = "Please make your choice from above ['q' to quit | 'b' to begin installation"
STOPPED = "The installation was stopped due to an error which occurred while running in non-interactive cmdline mode"
ENTER = "Press enter to exit."

BEFORE = "anaconda, kickstart.py: exit 1 before the exit handler exists; data/tmux.conf: set-remain-on-exit on"
OWN = "rehearsal: what it does not carry out ends as an unknown command does"
PAYLOAD = "packaging/yumpayload.py, errors.py: text mode asks yes or no and waits"
STORAGE = "kickstart.py (storage configuration failed), ui/tui/spokes/storage.py: the hub waits"
CHECKS = "ui/tui/spokes/storage.py: not enough space is a warning that text mode asks about"
TUI = "ui/tui/hubs/summary.py: a mandatory item is open, the hub waits"
CMDLINE = "ui/tui, exception.py: cmdline mode prints, sleeps 180 s, exits 1; the exit handler runs the poweroff"
SCRIPTS = "kickstart.py, errors.py: --erroronfail asks for Enter and waits; without it one line in the log"
MEMORY = "anaconda: check_memory asks for Enter and waits"
TRACE = "exception.py: text mode shows a menu and waits"
FATAL = "errors.py: text mode asks for Enter; cmdline mode leaves a line in the log, and the poweroff runs"
KERNEL = "Linux 3.10 kernel/panic.c, mm/oom_kill.c: no word of Anaconda's"
END = "ui/tui/spokes/progress.py: the prompt comes only without reboot, poweroff or shutdown"


UNKNOWN = "%packages\n@core\nno-such-package\n%end\n"
MISSING = "You have specified that the package 'no-such-package' should be installed.  This package does not exist."
PROBLEM = "The following problem occurred on line {} of the kickstart file:"
NO_ROOT = GOOD.replace("rootpw --plaintext secret\n", "")
TOO_BIG = GOOD.replace("--size=2000 --grow", "--size=90000")
TINY = GOOD.replace("--size=2000 --grow", "--size=100")

FOR_FAILURE = "%traceback\necho traceback-ran >/dev/console\n%end\n%onerror\necho onerror-ran >/dev/console\n%end\n"

FAST = [
    Row(
        "missing %end",
        "kickstart error",
        BEFORE,
        "text\n%packages\n@core\n",
        ("Section %packages does not end with %end.", "Pane is dead"),
    ),
    Row(
        "unknown command",
        "kickstart error",
        BEFORE,
        "text\nfrobnicate\n",
        (PROBLEM.format(2), "Unknown command: frobnicate", "Pane is dead"),
    ),
    Row(
        "command not carried out",
        "kickstart error",
        OWN,
        "text\nraid /\n",
        ("cannot carry out this command: raid: it makes no RAID arrays", "Pane is dead"),
    ),
    Row(
        "/etc by itself",
        "mandatory item",
        STORAGE,
        _ks("text", f"{GOOD}part /etc --size=300\n"),
        ("The /etc directory must be on the / file system.", "[!] Installation Destination", HUB),
    ),
    Row(
        "volumes that do not fit",
        "partitioning",
        STORAGE,
        _ks("text", GOOD.replace("part /", f"{VOLUMES} #")),
        ("storage configuration failed: not enough space for LVM requests", HUB),
    ),
    Row(
        "no such disk",
        "kickstart error",
        BEFORE,
        "text\nignoredisk --only-use=vdz\n",
        (PROBLEM.format(2), 'Disk "vdz"', "Pane is dead"),
    ),
    Row(
        "unknown package, text",
        "missing package",
        PAYLOAD,
        _ks("text", packages=UNKNOWN),
        (MISSING, "Please respond 'yes' or 'no': "),
    ),
    Row(
        "unknown package, cmdline",
        "missing package",
        CMDLINE,
        _ks("cmdline", packages=UNKNOWN),
        (STOPPED, "Missing package: no-such-package"),
        True,
        "",
    ),
    Row(
        "unknown group",
        "missing group",
        PAYLOAD,
        _ks("text", packages="%packages\n@nope\n%end\n"),
        ("group 'nope'", "Please respond 'yes' or 'no': "),
    ),
    Row(
        "too big",
        "partitioning",
        STORAGE,
        _ks("text", TOO_BIG),
        ("storage configuration failed: not enough free space on disks", "[!] Installation Destination", HUB),
    ),
    Row(
        "too big, cmdline",
        # What cannot be partitioned is why the item is open.
        "partitioning",
        CMDLINE,
        _ks("cmdline", TOO_BIG),
        (STOPPED, "mandatory spokes are not completed:\nInstallation Destination"),
        True,
        "",
    ),
    Row(
        "too small",
        "disk too small",
        CHECKS,
        _ks("text", TINY),
        ("Not enough space in file systems for the current software selection.", "Enter 'b' to ignore", HUB),
    ),
    Row("no root password", "mandatory item", TUI, _ks("text", NO_ROOT), ("[!] Root password", HUB)),
    Row(
        "no root password, cmdline",
        "mandatory item",
        CMDLINE,
        _ks("cmdline", NO_ROOT),
        (STOPPED, "not completed:\nRoot password"),
        True,
        "",
    ),
    Row(
        "no partitions",
        "mandatory item",
        TUI,
        _ks("text", GOOD.replace("part /", "#part /")),
        ("[!] Installation Destination", HUB),
    ),
    Row(
        "failing %pre",
        "script failed",
        SCRIPTS,
        _ks("text", more="%pre --erroronfail\necho why\nexit 3\n%end\n"),
        ("Running pre-installation scripts", "error running the kickstart script at line 16", "why", "Pane is dead"),
    ),
    Row(
        "little memory",
        "low memory",
        MEMORY,
        _ks("text"),
        ("requires 320 MB of memory to install, but you only have 256 MB", "Press ENTER to continue"),
        fault="low-memory",
    ),
    Row(
        "traceback",
        "traceback",
        TRACE,
        _ks("text", more=FOR_FAILURE),
        (
            "Preparing transaction",
            "An unknown error has occured, look at the /tmp/anaconda-tb*",
            "onerror-ran",
            "traceback-ran",
            "1) Report Bug",
        ),
        logs="Traceback (most recent call last)",
        fault="traceback",
    ),
    Row(
        "packages that conflict",
        "packages",
        FATAL,
        _ks("text"),
        ("The following error occurred while installing.  This is a fatal error", "glibc conflicts", ENTER),
        fault="packages",
    ),
    Row(
        "packages that conflict, cmdline",
        "packages",
        FATAL,
        _ks("cmdline", more=FOR_FAILURE),
        # No console text at all: only the log tells.
        ("Preparing transaction from installation source", "onerror-ran", "Powering off."),
        True,
        "The following error",
        "The following error occurred while installing.",
        "packages",
    ),
    Row("kernel panic", "kernel panic", KERNEL, _ks("text"), ("Kernel panic - not syncing: ",), fault="kernel-panic"),
    Row(
        "out of memory",
        "guest out of memory",
        KERNEL,
        _ks("text"),
        ("Out of memory: Killed process", "Pane is dead"),
        fault="guest-out-of-memory",
    ),
]

_POST = "%post{}\necho reason-of-failure\nexit 1\n%end\n"
SLOW = [
    Row(
        "%post fails",
        "script failed",
        SCRIPTS,
        _ks("text", more=_POST.format(" --erroronfail")),
        ("There was an error running the kickstart script at line", "reason-of-failure", ENTER),
    ),
    Row(
        "%post fails, cmdline",
        "script failed",
        CMDLINE,
        _ks("cmdline", more=_POST.format(" --erroronfail")),
        ("Running in cmdline mode, no interactive debugging allowed.", "The exact error message is: \n\n0."),
        True,
        "",
    ),
    Row(
        "%post fails without --erroronfail",
        "script failed",
        SCRIPTS,
        _ks("text", more=_POST.format("")),
        ("Running post-installation scripts", "Powering off."),
        True,
        "There was an error",
        "Error code 1 running the kickstart script at line",
    ),
    Row("no poweroff", "no power-off", END, _ks("text", end=""), ("Installation complete.  Press return to quit",)),
]


@pytest.mark.parametrize("row", FAST, ids=lambda row: row.name)
def test_fails_as_anaconda(row: Row, installers: Installers, tmp_path: Path, fault_row: FaultRow) -> None:
    row_fails(row, "el7", installers, tmp_path, fault_row)


@pytest.mark.slow
@pytest.mark.parametrize("row", SLOW, ids=lambda row: row.name)
def test_fails_late_as_anaconda(row: Row, installers: Installers, tmp_path: Path, fault_row: FaultRow) -> None:
    row_fails(row, "el7", installers, tmp_path, fault_row)
