"""Login on a character console, and commands in the shell behind it.

Invariant: a login counts only when the guest's shell has answered something that was not typed.
The console echoes what is typed and mixes in kernel messages, so neither a prompt nor the absence of "Login incorrect"
proves anything. Each command ends in a line that the guest's shell puts together from two parts, so the echo of the
typed line never contains it whole.
Nothing that the guest asks of the terminal is answered (cursor position, size, name): systemd 257 asks before each
getty and gives up after 333 ms, and an answer that comes later is read as a login name.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from builder.errors import BuilderError, Cause, VerifyError
from builder.system.screen import ESCAPES

# Debian's and EL's getty: `host login: `. `Last login: …` is what a login that worked prints.
LOGIN = re.compile(rb"(?m)^(?!Last )[\w.-]+ login: ?")
PASSWORD = re.compile(rb"[Pp]assword: ?")
REFUSED = re.compile(rb"Login incorrect|Authentication failure|account (?:has )?expired|Permission denied")
PROMPT = re.compile(rb"[#$>] ?$")
ASKED = re.compile(rb"(?P<password>%s)|%s" % (PASSWORD.pattern, LOGIN.pattern.removeprefix(b"(?m)")), re.M)
NUDGE = 5.0  # seconds of silence after which Enter is pressed for a getty that waits for it, or for a torn prompt
STEP = 30.0  # seconds for one answer of getty or login; an emulated guest computes SHA-512 for a while
ATTEMPTS = 3  # kernel messages can tear a prompt, so a step that fails is done again
RESTARTS = 2  # login prompts in place of a password's: the first may be due to an Enter of ours, the next is getty's
ANSWER = 60.0  # seconds for one command
UNUSED = 256 << 10  # bytes that no pattern was found in yet; no answer here has more than a few KiB
WHOLE_CONSOLE = "the whole console is in the run's folder"


class ConsoleStream(Protocol):
    """A console to read from and write to; `builder.vm.machine.Console` is one."""

    def read(self, within: float, /) -> bytes | None:
        """Return what came, b"" after so many seconds of silence, None when nothing can come any more."""

    def write(self, data: bytes, /) -> None:
        """Type something."""


@dataclass(frozen=True)
class Answer:
    """Output of a command on the console (both streams, without the typed line), and its exit status."""

    status: int
    text: str


@contextmanager
def log_in(
    terminal: ConsoleStream,
    password: str,
    *,
    within: float,
    user: str = "root",
    error: type[BuilderError] = VerifyError,
) -> Iterator[Shell]:
    """Log in on a character console and log out at the end.

    Args:
        password: typed once the guest asks for it, with its echo off; never part of an error.
        within: seconds until the login prompt must have come.

    Raises:
        VerifyError: (or `error`) no prompt, `Login incorrect`, no shell; with the last lines of the console.
    """
    reader = _Reader(terminal, password, error)
    _name_and_password(reader, user, password, within)
    shell = Shell(reader)
    shell.settle()
    try:
        yield shell
    finally:
        with contextlib.suppress(BuilderError):
            terminal.write(b"exit\r")


class Shell:
    """A logged-in shell on a character console."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def settle(self) -> None:
        """Wait until a shell answers, and make it quiet: no echo, no prompt, no kernel messages in between.

        login(1) throws away what was typed before the shell reads, so the first command is typed again if need be.
        """
        quiet = "stty -echo cols 1000; PS1=; PS2=; PROMPT_COMMAND=; TERM=dumb; dmesg -n 1; true"
        for _ in range(ATTEMPTS):
            self._reader.wait(PROMPT, STEP, NUDGE, refused=REFUSED)
            command = _Command(quiet)
            self._reader.type(command.typed)
            if self._reader.wait(command.answer, STEP, STEP, refused=REFUSED):
                return
        raise self._reader.fault("no shell answers on the console after the password")

    def run(self, command: str, *, within: float = ANSWER) -> Answer:
        """Run one command line (no here-documents, at most 3900 bytes) and wait for its end.

        Args:
            within: seconds.

        Raises:
            VerifyError: no answer in time, or the machine ended.
        """
        asked = _Command(command)
        if len(asked.typed) > 4000:
            raise ValueError("a terminal takes lines of at most 4095 bytes")
        self._reader.type(asked.typed)
        found = self._reader.wait(asked.answer, within, within)
        if not found:
            raise self._reader.fault(f"the shell on the console gave no answer within {within:g} s")
        text = found[1].replace(b"\r", b"").decode("utf-8", "replace")
        return Answer(int(found[2]), text.strip("\n"))


class _Command:
    """A line to type, and the pattern of what the shell makes of it and nobody could have typed."""

    def __init__(self, command: str) -> None:
        left, right = secrets.token_hex(6), secrets.token_hex(6)
        # printf joins the halves: the echo of this line matches neither mark.
        words = (
            f"printf '\\n%s<%s\\n' {left} {right}; {{ {command}; }} 2>&1; printf '\\n%s>%s=%d=\\n' {left} {right} $?"
        )
        self.typed = words.encode() + b"\r"
        begin, end = f"{left}<{right}".encode(), f"{left}>{right}".encode()
        self.answer = re.compile(re.escape(begin) + rb"\r*\n(.*?)\r*\n" + re.escape(end) + rb"=(\d{1,3})=", re.S)


class _Reader:
    """Collects what the console says, and finds patterns in what has not been used yet."""

    def __init__(self, terminal: ConsoleStream, password: str, error: type[BuilderError]) -> None:
        self._terminal = terminal
        self._password = password
        self._error = error
        self._unused = b""
        self._seen = b""
        self.quiet = False

    def type(self, data: bytes) -> None:
        self._terminal.write(data)

    def wait(
        self,
        pattern: re.Pattern[bytes],
        within: float,
        silence: float,
        refused: re.Pattern[bytes] | None = None,
    ) -> re.Match[bytes] | None:
        """Wait for a pattern; None after `within` seconds, or after `silence` seconds without a word."""
        deadline = time.monotonic() + within
        while not (found := self.look(pattern)):
            if refused and refused.search(self._unused):
                raise self.fault("the console refuses root's password", Cause.CONSOLE_REFUSES_ROOT)
            left = deadline - time.monotonic()
            if left <= 0 or not self.more(min(silence, left)):
                return None
        return found

    def look(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Find a pattern, and use up everything to its end."""
        found = pattern.search(self._unused)
        if found:
            self._unused = self._unused[found.end() :]
        return found

    def more(self, within: float) -> bool:
        """Read on; False after silence."""
        data = self._terminal.read(within)
        if data is None:
            raise self.fault("the machine ended while its console was in use")
        self.quiet = not data
        self._unused = ESCAPES.sub(b"", self._unused + data)[-UNUSED:]
        self._seen = (self._seen + data)[-16384:]
        return bool(data)

    def forget(self) -> None:
        """Drop what came until now: it does not answer what is typed next."""
        self._unused = b""

    def fault(self, brief: str, cause: Cause | None = None, hint: str = WHOLE_CONSOLE) -> BuilderError:
        """An error with the console's last lines, in which the password never stands."""
        text = ESCAPES.sub(b"", self._seen).decode("utf-8", "replace").replace("\r", "")
        if self._password:
            text = text.replace(self._password, "********")
        lines = [line for line in text.splitlines() if line.strip()]
        return self._error(brief, "\n".join(lines[-15:]), hint, cause=cause)


def _name_and_password(reader: _Reader, user: str, password: str, within: float) -> None:
    """Answer getty and login. Enter is pressed in silence, for a getty that waits for it or a torn prompt."""
    deadline = time.monotonic() + within
    restarts = 0
    asked: re.Match[bytes] | None = None
    for _ in range(ATTEMPTS):
        # A login prompt that came in place of a password's is the one that waits now.
        while not asked and not reader.wait(LOGIN, NUDGE, NUDGE):
            if time.monotonic() > deadline:
                raise reader.fault(f"no login prompt on the console within {within:g} s", Cause.NOT_BOOTED)
            if reader.quiet:
                reader.type(b"\r")
        reader.forget()
        reader.type(user.encode() + b"\r")
        asked = reader.wait(ASKED, STEP, STEP, refused=REFUSED)
        if asked and not asked["password"]:
            restarts += 1
            if restarts == RESTARTS:
                raise reader.fault(
                    "the console's login prompt starts again in place of asking for a password",
                    Cause.NO_LOGIN_PROGRAM,
                    "agetty cannot run /bin/login: is it in the image? (package login on Debian, util-linux on EL)",
                )
        if asked and (asked["password"] or reader.wait(PASSWORD, NUDGE, NUDGE, refused=REFUSED)):
            reader.type(password.encode() + b"\r")
            return
    raise reader.fault("the console does not ask for a password")
