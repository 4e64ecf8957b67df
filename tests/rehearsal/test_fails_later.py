"""The rehearsals of Enterprise Linux 8 to 10 and of Fedora fail in the words of their own Anaconda.

Each row names where its expectation was read: a bare file name is one of Anaconda's branches rhel-8 (33.16.10.5),
rhel-9 (34.25.7.19) and rhel-10 (40.22.3.57; Fedora's 45.21 is the same), below pyanaconda/. What a release says
otherwise than EL9 is in its own column. `make test` runs a few of EL9; all rows of all releases are slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from builder.releases import Name
from tests.fault_table import FaultRow
from tests.rehearsal.failing import GOOD, Installers, Row, kickstart, row_fails

pytestmark = pytest.mark.vm

# From EL10 on a disk gets a GPT for BIOS, too.
WHOLE = GOOD.replace("part /", "reqpart\npart /")
HUB = "Please make a selection from the above ['b' to begin installation"
READ = "An error occurred during reading the kickstart file:"
STOPPED = "The installation was stopped due to an error which occurred while running in non-interactive cmdline mode"
UNASKED = "Non interactive installation failed: "
IGNORE = "Would you like to ignore this and continue with installation?"
LATE = ("The following error occurred during the installation:", "Some packages, groups or modules are missing.")
ENTER = "Press ENTER to exit"
OPEN = "The following mandatory spokes are not completed:\n"
NOT_DONE = (f"{STOPPED}", f"{OPEN}Installation Destination")
ROW_TWO = "The following problem occurred on line 2 of the kickstart file:"

KICKSTART = "kickstart.py: printed before there is a user interface, 10 s later exit 1; data/tmux.conf: remain-on-exit"
PAYLOAD = "errors.py (MarkingErrors of dnf; rhel-10: dnf_manager.py, installation.py): text mode asks and waits"
CMDLINE = "errors.py (cb), exception.py: printed, the scripts for a failure, 180 s, exit 1; then the poweroff"
STORAGE = "ui/tui/spokes/storage.py (status): text mode lists it and waits"
TUI = "ui/tui/hubs/summary.py, ui/tui/spokes/root_password.py: text mode lists what is open and waits"
SPACE = "ui/tui/hubs/summary.py: text mode asks; rhel-10's cmdline mode ends, before that nobody looks"
PRE = "errors.py (cb): without a user interface the error is raised, and nothing catches it"
MEMORY = "startup_utils.py (check_memory)"
TRACE = "exception.py, python-meh: a menu that waits"
FATAL = "errors.py (_payload_install_handler; rhel-8: _payloadInstallHandler)"
SCRIPT = "kickstart.py (run), rhel-10: installation_tasks.py: a message that waits, in cmdline mode, too"
END = "ui/tui/spokes/installation_progress.py: the prompt comes only without reboot, poweroff or shutdown"

PACKAGE = "%packages\n@core\nno-such-package\n%end\n"
GROUP = "%packages\n@core\n@nope\n%end\n"
FOR_FAILURE = "%traceback\necho traceback-ran >/dev/console\n%end\n%onerror\necho onerror-ran >/dev/console\n%end\n"
NO_ROOT = WHOLE.replace("rootpw --plaintext secret\n", "")
TOO_BIG = WHOLE.replace("--size=2000 --grow", "--size=90000")
TINY = WHOLE.replace("--size=2000 --grow", "--size=100")
POST = "%post{}\necho reason-of-failure\nexit 1\n%end\n"


@dataclass(frozen=True)
class Later:
    """A row of the table.

    Args:
        row: as EL9 fails.
        others: what another release says, or does, instead; None where it does not fail so at all.
    """

    row: Row
    others: dict[Name, dict[str, object] | None] = field(default_factory=dict)


def _from_el10(**changed: object) -> dict[Name, dict[str, object] | None]:
    return {"el10": dict(changed), "fedora": dict(changed)}


def _asks(*says: str) -> tuple[str, ...]:
    return (*says, IGNORE, "Please respond 'yes' or 'no': ")


TABLE = [
    Later(
        Row(
            "missing %end",
            "kickstart error",
            KICKSTART,
            "text\n%packages\n@core\n",
            (READ, "Section %packages does not end with %end.", "The installer will now terminate.", "Pane is dead"),
        )
    ),
    Later(
        Row(
            "unknown command",
            "kickstart error",
            KICKSTART,
            "text\nfrobnicate\n",
            (READ, ROW_TWO, "Unknown command: frobnicate", "The installer will now terminate.", "Pane is dead"),
        )
    ),
    Later(
        Row(
            "a command of EL7",
            "kickstart error",
            KICKSTART,
            "text\ninstall\n",
            (READ, ROW_TWO, "The installer will now terminate.", "Pane is dead"),
        ),
        # Accepted there, and warned of.
        {"el8": None},
    ),
    Later(
        Row(
            "%anaconda",
            "kickstart error",
            "kickstart.py (AnacondaKSParser.setupSections of rhel-10 has no such section)",
            "text\n%anaconda\n%end\n",
            (READ, "Unknown kickstart section: %anaconda", "Pane is dead"),
        ),
        {"el8": None, "el9": None},
    ),
    Later(
        Row(
            "unknown package, text",
            "missing package",
            PAYLOAD,
            kickstart("text", WHOLE, packages=PACKAGE),
            _asks("Problems in request:\nmissing packages: no-such-package"),
        ),
        _from_el10(says=_asks("Creating xfs", *LATE, "Problems in request:\nmissing packages: no-such-package")),
    ),
    Later(
        Row(
            "unknown package, cmdline",
            "missing package",
            CMDLINE,
            kickstart("cmdline", WHOLE, packages=PACKAGE, more=FOR_FAILURE),
            (STOPPED, f"{UNASKED}Problems in request:\nmissing packages: no-such-package", "onerror-ran"),
            True,
            "",
        ),
        _from_el10(says=(STOPPED, f"{UNASKED}{LATE[1]}", "missing packages: no-such-package", "onerror-ran")),
    ),
    Later(
        Row(
            "unknown group",
            "missing group",
            PAYLOAD,
            kickstart("text", WHOLE, packages=GROUP),
            _asks("missing groups or modules: nope"),
        ),
        _from_el10(says=_asks(*LATE, "missing groups or modules: nope")),
    ),
    Later(
        Row(
            "too big",
            "partitioning",
            STORAGE,
            kickstart("text", TOO_BIG),
            ("not enough free space on disks", "[!] Installation Destination", "(Kickstart insufficient)", HUB),
        )
    ),
    Later(
        Row("too big, cmdline", "mandatory item", CMDLINE, kickstart("cmdline", TOO_BIG), NOT_DONE, True, ""),
    ),
    Later(
        Row(
            "/etc by itself",
            "partitioning",
            STORAGE,
            kickstart("text", f"{WHOLE}part /etc --size=300\n"),
            ("The /etc directory must be on the / file system.", "(Error checking storage configuration)", HUB),
        )
    ),
    Later(
        Row(
            "too small",
            "disk too small",
            SPACE,
            kickstart("text", TINY),
            ("Not enough space in file systems for the current software selection.", "Enter 'b' to ignore", HUB),
        )
    ),
    Later(
        Row(
            "too small, cmdline",
            "disk too small",
            SPACE,
            kickstart("cmdline", TINY),
            (STOPPED, "Not enough space in file systems for the current software selection."),
            True,
            "",
        ),
        {"el8": None, "el9": None},
    ),
    Later(
        Row(
            "no root password",
            "mandatory item",
            TUI,
            kickstart("text", NO_ROOT),
            ("[!] Root password", "(Root account is disabled)", HUB),
        )
    ),
    Later(
        Row(
            "no root password, cmdline",
            "mandatory item",
            CMDLINE,
            kickstart("cmdline", NO_ROOT),
            (STOPPED, f"{OPEN}Root password"),
            True,
            "",
        )
    ),
    Later(
        Row(
            "failing %pre",
            "traceback",
            PRE,
            kickstart("text", WHOLE, more="%pre --erroronfail\necho why\nexit 3\n%end\n"),
            ("Running pre-installation scripts", "pyanaconda.errors.ScriptError", "Pane is dead"),
            logs="Error code 3 running the kickstart script at line",
        )
    ),
    Later(
        Row(
            "little memory",
            "low memory",
            MEMORY,
            kickstart("text", WHOLE),
            ("requires 320 MB of memory to install", "Press [Enter] to reboot", "Press ENTER to continue"),
            fault="low-memory",
        )
    ),
    Later(
        Row(
            "traceback",
            "traceback",
            TRACE,
            kickstart("text", WHOLE, more=FOR_FAILURE),
            ("An unknown error has occured, look at the /tmp/anaconda-tb*", "onerror-ran", "traceback-ran", "4) Quit"),
            fault="traceback",
        )
    ),
    Later(
        Row(
            "packages that conflict",
            "packages",
            FATAL,
            kickstart("text", WHOLE),
            ("error occurred while installing the payload. This is a fatal error", "DNF error: ", ENTER),
            fault="packages",
        ),
        {
            "el8": {"says": ("error occurred while installing.  This is a fatal error", "DNF error: ", ENTER)},
            **_from_el10(says=("while installing the payload.", "An error occurred during the transaction: ", ENTER)),
        },
    ),
    Later(
        Row(
            "packages that conflict, cmdline",
            "packages",
            CMDLINE,
            kickstart("cmdline", WHOLE, more=FOR_FAILURE),
            (STOPPED, f"{UNASKED}DNF error: ", "onerror-ran"),
            True,
            "",
            fault="packages",
        ),
        _from_el10(says=(STOPPED, f"{UNASKED}An error occurred during the transaction: ", "onerror-ran")),
    ),
    Later(
        Row(
            "%post fails, cmdline",
            "script failed",
            SCRIPT,
            kickstart("cmdline", WHOLE, more=POST.format(" --erroronfail")),
            ("There was an error running the kickstart script at line", "reason-of-failure", ENTER),
        )
    ),
    Later(
        Row(
            "no poweroff",
            "no power-off",
            END,
            kickstart("text", WHOLE, end=""),
            ("Storing configuration files and kickstarts", "Installation complete. Press ENTER to quit"),
        )
    ),
]
RELEASES: tuple[Name, ...] = ("el8", "el9", "el10", "fedora")
QUICK = [one.row for one in TABLE if one.row.name in ("unknown command", "unknown package, cmdline", "too big")]


def _column(release: Name) -> list[Row]:
    changes = [(one.row, one.others.get(release, {})) for one in TABLE]
    return [replace(row, **changed) for row, changed in changes if changed is not None]  # type: ignore[arg-type]


ALL = [(release, row) for release in RELEASES for row in _column(release)]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_el9_fails_in_its_own_words(row: Row, installers: Installers, tmp_path: Path, fault_row: FaultRow) -> None:
    row_fails(row, "el9", installers, tmp_path, fault_row)


@pytest.mark.slow
@pytest.mark.parametrize(("release", "row"), ALL, ids=[f"{release}: {row.name}" for release, row in ALL])
def test_each_release_fails_in_its_own_words(
    release: Name, row: Row, installers: Installers, tmp_path: Path, fault_row: FaultRow
) -> None:
    row_fails(row, release, installers, tmp_path, fault_row)
