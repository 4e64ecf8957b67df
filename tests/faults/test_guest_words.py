"""The installer's last words before it hangs are classified at once, and the run's folder explains them to people."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Any

import pytest

from builder.errors import Source
from builder.stages.install import FILE
from builder.store import runs
from builder.store.store import Store
from tests.fault_table import FaultRow
from tests.faults.conftest import CRYPT, GOOD, PASSWORD, Machines, SectorOrder, verdict_of

pytestmark = pytest.mark.vm


@dataclass(frozen=True)
class Words:
    """What a guest says, and the cause that it names.

    Args:
        ttys0: on the console, before it ends.
        end: how the guest ends; most installers just wait.
        line: a part of the line that has to be quoted.
    """

    cause: str
    ttys0: str
    line: str = ""
    end: str = "hang"
    ttys1: str = ""


SAID = (
    Words(
        "kickstart error",
        "The following problem occurred on line 7 of the kickstart file:\r\n\r\nUnknown command: frobnicate\r\n\r\n"
        "Pane is dead",
        "line 7 of the kickstart file: Unknown command: frobnicate",
    ),
    Words(
        "missing package",
        # Wrapped at 80 columns in the middle of a word, as a terminal does it.
        "You have specified that the package 'deltarpm' should be installed.  This package does not exist.  "
        "Would you like to ignore this package and continue\r\nPlease respond 'yes' or 'no': ",
        "'deltarpm'",
    ),
    Words("missing group", "\x1b[1;1HYou have specified that the group 'gnome' should be installed.  This group does "
          "\x1b[7mnot\x1b[0m exist", "'gnome'"),
    Words("mandatory item", " 5) [!] Root password\r\nPlease make your choice from above ['q' to quit | 'b' to begin "
          "installation |\r\n 'r' to refresh]: ", "[!] Root password"),
    Words("partitioning", "The following errors occurred with your partitioning:\r\n\r\nYou have not defined a root "
          "partition (/)\r\nPress enter to exit.", "root partition"),
    Words("disk too small", "Not enough space in file systems for the current software selection. An additional "
          "512.3 MiB is needed.\r\nEnter 'b' to ignore the warning", "512.3 MiB"),
    Words("low memory", "CentOS requires 320 MB of memory to install, but you only have 256 MB on this machine.\r\n",
          "256 MB"),
    Words("script failed", "There was an error running the kickstart script at line 41.  This is a fatal error and "
          "installation will be aborted.\r\n\r\nmkdir: cannot create", "line 41"),
    Words("packages", "The following error occurred while installing.  This is a fatal error and installation will be "
          "aborted.\r\n\r\nglibc conflicts"),
    Words("question", "The installation was stopped due to an error which occurred while running in non-interactive "
          "cmdline mode.\r\n"),
    Words("traceback", "An unknown error has occured, look at the /tmp/anaconda-tb* file(s) for more details\r\n"),
    Words("installer ended", "Pane is dead"),
    Words("medium check", "dracut-pre-mount: CD check failed!\r\n"),
    Words("kickstart not found", "dracut: Can't get kickstart from /dev/sr0:/ks.cfg\r\n", "/dev/sr0:/ks.cfg"),
    Words("dracut timeout", "[  190.1] dracut-initqueue[301]: Warning: dracut-initqueue timeout - starting timeout "
          "scripts\r\n"),
    Words("emergency shell", "Entering emergency mode. Exit the shell to continue.\r\n"),
    Words("kernel panic", "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n",
          "VFS"),
    Words("guest out of memory", "Out of memory: Kill process 812 (anaconda) score 500 or sacrifice child\r\n", "812"),
    Words("no power-off", "Installation complete.  Press return to quit"),
    Words("no marker", "Powering off.\r\n", end="poweroff"),
    Words("script failed", "Error code 1 running the kickstart script at line 12\r\n", "line 12", end="poweroff"),
    Words("reboot", "Rebooting.\r\n", end="reset"),
    Words("reboot", "a triple fault\r\n", end="triple fault"),
    Words("kernel panic", "pvpanic tells\r\n", end="panic"),
    Words("foreign marker", "Powering off.\r\n", "0f0f", end="poweroff", ttys1="BUILDER INSTALLED 0f0f\n"),
    Words("no DHCP", "dhclient[812]: No DHCPOFFERS received.\r\n", "No DHCPOFFERS received", end="poweroff"),
    Words("module refused", "modprobe: can't load module sd_mod (sd_mod.ko): unknown symbol in module, or unknown "
          "parameter\r\n", "sd_mod"),
)  # fmt: skip
FAST = SAID[:2] + SAID[5:6] + SAID[19:20] + SAID[21:22]


def _row(words: Words, machines: Machines, fault_row: FaultRow) -> None:
    sector: dict[str, Any] = {"ttys0": words.ttys0, "ttys1": words.ttys1, "end": words.end}
    how = {"hang": "the console says it", "poweroff": "and powers off", "reset": "resets", "panic": "pvpanic"}
    with fault_row(f"{words.cause}: {how.get(words.end, words.end)}", place=machines.place) as row:
        fault, folder = machines.fails(SectorOrder(sector))
        row.judged(fault.diagnosis.cause, happened=(folder / "console.log").stat().st_mtime)
        assert fault.diagnosis.cause == words.cause
        assert words.line in fault.diagnosis.line
        told = verdict_of(folder)
        assert (told["cause"], told["stage"], told["transient"]) == (words.cause, "install", False)
        assert told["source"]
        assert told["hint"]
        machines.run(GOOD)


@pytest.mark.parametrize("words", FAST, ids=lambda words: words.cause)
def test_words_name_the_cause(words: Words, machines: Machines, fault_row: FaultRow) -> None:
    _row(words, machines, fault_row)


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in SAID if words not in FAST], ids=lambda words: words.cause)
def test_other_words_name_the_cause(words: Words, machines: Machines, fault_row: FaultRow) -> None:
    _row(words, machines, fault_row)


def test_the_folder_tells_the_whole_story_and_no_secret(machines: Machines) -> None:
    """All that is promised is there, for its owner only; and the image's password is nowhere in it."""
    words = SAID[0]
    _fault, folder = machines.fails(SectorOrder({"ttys0": f"\x1b[31m{words.ttys0}", "end": "hang"}))
    names = {path.name for path in folder.iterdir()}
    # Private keys are looked for in an image, not in an install that failed.
    assert names == {*runs.FILES, runs.README} - {Source.PRIVATE_KEYS}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        data = path.read_bytes()
        for secret in (PASSWORD, CRYPT, "open-sesame"):
            assert secret.encode() not in data, path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "\x1b" in (folder / "console.log").read_text()
    assert (folder / "console.txt").read_text().startswith("The following problem occurred on line 7")
    assert (folder / "screenshot.png").read_bytes().startswith(b"\x89PNG")
    assert "qemu-system" in (folder / "qemu.log").read_text()
    assert "********" in (folder / "kickstart.cfg").read_text()
    readme = (folder / runs.README).read_text()
    assert "look first: console.txt" in readme
    assert words.line in readme
    assert '"event": "failed"' in (folder / "events.jsonl").read_text().splitlines()[-1]


def test_a_good_guest_passes(machines: Machines) -> None:
    machines.run(GOOD)
    (record,) = runs.list_runs(machines.settings.runs)
    assert record.outcome == "done"
    store = Store(machines.settings.store)
    digest = next(step.digest for step in record.steps if step.stage == "install")
    assert (store.path(digest) / FILE).stat().st_size == GOOD.disk_size
