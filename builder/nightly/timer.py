"""A systemd timer that starts nightly runs.

Invariant: units are written only when systemd itself finds no fault in them, and nothing is enabled unasked.

The forms are those of systemd.service(5), systemd.timer(5) and systemd.time(7); values are quoted by
`builder.nightly.unit_syntax`. The runs get the variables that the shell has, see `builder.nightly.unit_environment`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError, RecipeError
from builder.host.config import NotifySettings
from builder.nightly import ENVIRONMENT, unit_syntax
from builder.nightly.notify import is_address, prepare
from builder.nightly.unit_environment import carried_over
from builder.nightly.worker import BUILDER
from builder.system import packages, process
from builder.system.atomic_file import replacing

ANALYZE = "systemd-analyze"
SERVICE, TIMER = "builder-nightly.service", "builder-nightly.timer"
ADDRESSES = "builder-nightly.notify"
SECRETS = "builder-nightly.environment"
# All of systemd.time(7): numbers, names of days and time zones, and the signs between them.
TIME = re.compile(r"[A-Za-z0-9*:,./~_+ -]+")
NOTIFY = "--notify"


@dataclass(frozen=True)
class InstalledTimer:
    """The files that were written, and the command that enables the timer."""

    files: tuple[Path, ...]
    enable: str


def install(artifacts: Path, options: Sequence[str], at: str, target: Path | None = None) -> InstalledTimer:
    """Write a service and a timer that start `builder nightly run` in the current directory.

    Args:
        artifacts: folder for everything that the runs make.
        options: pipelines and options of each run; addresses among them, or in the environment, go into a file that
            only its owner can read, since units can be read by every user of the host.
        at: when, in systemd's words, e.g. `02:00` or `Mon..Fri 02:00`.
        target: folder of the units; by default the one in which systemd looks for them.

    Raises:
        RecipeError: systemd does not understand the time, or apprise an address; or a value of the environment or a
            path cannot be written into a unit.
        HostError: the files cannot be written, or a program is not installed.
    """
    check_time(at)
    target = (target or folder()).absolute()
    environment = carried_over(os.environ, root=os.geteuid() == 0)
    options = list(options)
    if not any(word.partition("=")[0] == NOTIFY for word in options):
        # systemd starts runs without the environment of this shell.
        options += [f"{NOTIFY}={value}" for value in os.environ.get(ENVIRONMENT, "").split()]
    options, addresses = without_addresses(options, NOTIFY)
    prepare(addresses, NotifySettings())
    options += [NOTIFY, str(target / ADDRESSES)] if addresses else []
    command = [*BUILDER, "--artifacts", str(artifacts), "nightly", "run", *options]
    secrets = target / SECRETS if environment.secret else None
    texts = units(command, Path.cwd(), at, environment.public, secrets)
    private = {
        ADDRESSES: "".join(f"{address}\n" for address in addresses),
        SECRETS: unit_syntax.environment_file(environment.secret),
    }
    written = write_units(texts, target, private)
    # A user's units run while the user is logged in, unless lingering is enabled (loginctl(1)).
    user, linger = ("", "") if os.geteuid() == 0 else ("--user ", " && loginctl enable-linger")
    enable = f"systemctl {user}daemon-reload && systemctl {user}enable --now {TIMER}{linger}"
    return InstalledTimer(tuple(written), enable)


def folder() -> Path:
    """Return the folder in which systemd looks for units of the host (root) or of this user."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


def check_time(at: str) -> None:
    """Check when runs start, by systemd itself where it is installed.

    Raises:
        RecipeError: it is not a time of systemd.time(7).
    """
    hint = "--at takes a time of systemd.time(7), e.g. 02:00 or 'Mon..Fri 02:00'"
    if not TIME.fullmatch(at):
        raise RecipeError(f"--at {at!r} is not a time", "it has characters that no time has", hint)
    if packages.find_program(ANALYZE):
        done = process.run([ANALYZE, "calendar", "--", at], check=False, timeout=60)
        if done.status != 0:
            raise RecipeError(f"--at {at!r} is not a time", done.error_text, hint)


def units(
    command: Sequence[str],
    directory: Path,
    at: str,
    environment: Mapping[str, str] | None = None,
    environment_file: Path | None = None,
) -> dict[str, str]:
    """Return the text of both units, by name.

    Args:
        command: the command line of `builder nightly …`; its first word is a path.
        directory: where it runs.
        at: when, as systemd.time(7) has it, e.g. `02:00` or `Mon..Fri 02:00`.
        environment: variables of each run.
        environment_file: has more of them.

    Raises:
        RecipeError: a value cannot be written into a unit.
    """
    variables = unit_syntax.assignments(environment or {})
    if environment_file:
        variables += f"EnvironmentFile={unit_syntax.path(str(environment_file), 'the folder of the units')}\n"
    service = f"""\
[Unit]
Description=Nightly builds of golden images
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target libvirtd.service

[Service]
Type=oneshot
WorkingDirectory={unit_syntax.path(str(directory), "the working directory")}
{variables}ExecStart={" ".join(map(unit_syntax.word, command))}
# Builds shut their machines down when they get SIGTERM; two minutes are enough for that.
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
    """Split the options of a run from the addresses that messages go to.

    Args:
        option: the option whose value is an address, or a file with addresses.
    """
    rest: list[str] = []
    addresses: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
            continue
        value = value if equals else next(remaining, "")
        if is_address(value):
            addresses.append(value)
        else:
            rest += [option, value]
    return rest, addresses


def write_units(texts: dict[str, str], target: Path, private: Mapping[str, str] | None = None) -> list[Path]:
    """Have systemd check the units where it is installed, and write them.

    Args:
        private: texts of files that only their owner can read, by name; one that is empty is removed.

    Raises:
        RecipeError: systemd does not understand the units.
        HostError: they cannot be written.
    """
    if packages.find_program(ANALYZE):
        _verify(texts)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise HostError(f"{target} cannot be created: {fault.strerror}") from fault
    written = [target / name for name in texts]
    for name, text in (private or {}).items():
        if text:
            with replacing(target / name, mode=0o600) as file:
                file.write(text.encode())
            written.append(target / name)
        elif not any(str(target / name) in unit for unit in texts.values()):
            # Options copied from the old unit name the file: then it still holds the addresses.
            (target / name).unlink(missing_ok=True)
    for name, text in texts.items():
        with replacing(target / name) as file:
            file.write(text.encode())
    return written


def _verify(texts: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="builder-timer-") as scratch:
        drafts = [Path(scratch) / name for name in texts]
        for draft in drafts:
            draft.write_text(texts[draft.name], encoding="utf-8")
        # --man=no: manual pages that are not installed are not faults of the units.
        done = process.run([ANALYZE, "verify", "--man=no", *drafts], check=False, timeout=60)
        faults = [
            line for line in (done.stdout + done.stderr).splitlines() if scratch in line or "builder-nightly" in line
        ]
        if done.status != 0 or faults:
            output = "\n".join(faults or [done.error_text]).replace(f"{scratch}/", "")
            raise RecipeError("systemd refuses the timer", output)
