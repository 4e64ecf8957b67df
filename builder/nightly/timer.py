"""The one rule: units are written only when systemd itself finds no fault in them, and nothing is switched on unasked.

The forms are those of systemd.service(5), systemd.timer(5) and systemd.time(7); every quoted word is escaped as
systemd.syntax(7) and systemd.service(5) ("Command lines") want it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder.errors import HostError, RecipeError
from builder.nightly.notify import is_address
from builder.system import process
from builder.system.atomic_file import replacing

SERVICE, TIMER = "builder-nightly.service", "builder-nightly.timer"
ADDRESSES = "builder-nightly.notify"


def folder() -> Path:
    """Where systemd looks for units of the host (root) or of this user."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


def units(command: Sequence[str], directory: Path, at: str) -> dict[str, str]:
    """Text of both units, by name.

    Args:
        command: the words of `builder nightly …`; the first one is a path.
        directory: where it is run.
        at: when, in systemd's words (systemd.time(7)), e.g. `02:00` or `Mon..Fri 02:00`.
    """
    service = f"""\
[Unit]
Description=Nightly builds of golden images
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target libvirtd.service

[Service]
Type=oneshot
WorkingDirectory={str(directory).replace("%", "%%")}
ExecStart={" ".join(map(_quoted, command))}
# Builds end their machines themselves when they are told to stop; two minutes are enough for that.
KillMode=mixed
TimeoutStartSec=infinity
TimeoutStopSec=120
Nice=5
"""
    timer = f"""\
[Unit]
Description=Starts the nightly builds of golden images

[Timer]
OnCalendar={at}
# A host that was off at that time builds when it comes up.
Persistent=true
RandomizedDelaySec=5min

[Install]
WantedBy=timers.target
"""
    return {SERVICE: service, TIMER: timer}


def without_addresses(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Split options of a night from the addresses that messages go to.

    Args:
        option: the one whose value is an address, or a file with addresses.
    """
    rest: list[str] = []
    found: list[str] = []
    todo = iter(words)
    for word in todo:
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
            continue
        value = value if equals else next(todo, "")
        if is_address(value):
            found.append(value)
        else:
            rest += [option, value]
    return rest, found


def install(texts: dict[str, str], target: Path, addresses: Sequence[str] = ()) -> list[Path]:
    """Have systemd check the units, and write them.

    Args:
        addresses: of messages; they get a file of their own that only its owner may read.

    Raises:
        RecipeError: systemd does not understand them: mostly the time.
        HostError: they cannot be written, or there is no systemd-analyze here.
    """
    with tempfile.TemporaryDirectory(prefix="builder-timer-") as place:
        drafts = [Path(place) / name for name in texts]
        for draft in drafts:
            draft.write_text(texts[draft.name], encoding="utf-8")
        # --man=no: whether manual pages are installed says nothing of the units.
        done = process.run(["systemd-analyze", "verify", "--man=no", *drafts], check=False, timeout=60)
        faults = [
            line for line in (done.stdout + done.stderr).splitlines() if place in line or "builder-nightly" in line
        ]
        if done.status != 0 or faults:
            said = "\n".join(faults or [done.said]).replace(f"{place}/", "")
            raise RecipeError("systemd refuses the timer", said, "--at is a time of systemd.time(7), e.g. 02:00")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise HostError(f"{target} cannot be made: {fault.strerror}") from fault
    for name, text in texts.items():
        with replacing(target / name) as file:
            file.write(text.encode())
    secret = target / ADDRESSES
    secret.unlink(missing_ok=True)
    if addresses:
        with replacing(secret, mode=0o600) as file:
            file.write("".join(f"{address}\n" for address in addresses).encode())
    return [*(target / name for name in texts), *([secret] if addresses else [])]


def _quoted(word: str) -> str:
    """A word of a command line that systemd gives on as it is."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    if "\n" in word or "\r" in word:
        raise RecipeError(f"{word!r} has a line break, and cannot stand in a unit")
    return f'"{escaped}"'
