"""A login on a character console is believed only when a shell has answered."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.errors import Cause, VerifyError
from builder.guest import console as console_login
from builder.guest.console import log_in
from tests.fakes import getty, systemd

PASSWORD = "hunter2 $'\"%s"


class Pty:
    """The near end of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, within: float) -> bytes | None:
        if not select.select([self.descriptor], [], [], within)[0]:
            return b""
        try:
            return os.read(self.descriptor, 4096) or None
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        os.write(self.descriptor, data)


@contextmanager
def console(manner: str) -> Iterator[Pty]:
    near, far = pty.openpty()
    child = subprocess.Popen(
        ["setsid", "-c", sys.executable, getty.__file__, manner],
        stdin=far,
        stdout=far,
        stderr=far,
        start_new_session=True,
        env={**os.environ, "FAKE_PASSWORD": PASSWORD, "PYTHONPATH": str(Path(getty.__file__).parents[2])},
    )
    os.close(far)
    try:
        yield Pty(near)
    finally:
        os.close(near)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("manner", ["el7", "debian", "systemd 257", "noisy"])
def test_login_runs_commands(manner: str) -> None:
    with console(manner) as terminal, log_in(terminal, PASSWORD, within=20) as shell:
        assert shell.run("echo one; echo two >&2") == console_login.Answer(0, "one\ntwo")
        assert shell.run("(exit 7)") == console_login.Answer(7, "")
        assert shell.run("seq 3000").text.splitlines() == [str(number) for number in range(1, 3001)]
        assert shell.run("printf 'no newline'").text == "no newline"
        assert shell.run(f"printf '%s' {'x' * 3000}").text == "x" * 3000


@pytest.mark.parametrize("manner", ["press enter", "torn"])
def test_enter_is_pressed_in_silence(manner: str) -> None:
    with console(manner) as terminal, log_in(terminal, PASSWORD, within=20) as shell:
        assert shell.run("true").status == 0


def test_wrong_password_is_refused_and_never_told() -> None:
    with (
        console("el7") as terminal,
        pytest.raises(VerifyError, match="refuses") as caught,
        log_in(terminal, "not the password", within=20),
    ):
        pass
    assert "Login incorrect" in caught.value.details
    assert "not the password" not in str(caught.value.as_dict())


def test_expired_account_is_refused() -> None:
    with (
        console("expired") as terminal,
        pytest.raises(VerifyError, match="refuses"),
        log_in(terminal, PASSWORD, within=20),
    ):
        pass


class Replay:
    """A console that answers each typed line with the next of some texts, and is silent in between."""

    def __init__(self, *texts: bytes) -> None:
        self.texts = list(texts)
        self.typed: list[bytes] = []
        self.coming = self.texts.pop(0)

    def read(self, _within: float) -> bytes | None:
        """One byte at a time, as a serial line is read from a slow machine."""
        now, self.coming = self.coming[:1], self.coming[1:]
        return now

    def write(self, data: bytes) -> None:
        self.typed.append(data)
        self.coming += self.texts.pop(0) if self.texts else b""


def test_questions_to_the_terminal_are_not_answered() -> None:
    """An answer that comes too late for systemd is taken for a login name."""
    prompt = 3 * systemd.TERMINAL_RESET + systemd.AGETTY
    terminal = Replay(prompt, b"root\r\nPassword: ", systemd.LOGGED_IN)
    with pytest.raises(VerifyError, match="no shell answers"), log_in(terminal, PASSWORD, within=20):
        pass
    assert terminal.typed[:2] == [b"root\r", PASSWORD.encode() + b"\r"]
    assert b"stty -echo" in terminal.typed[2]


def test_prompt_that_only_starts_again_is_recognised_early() -> None:
    """What Debian 13 without the package `login` shows: each time a name is given, agetty ends 10 s later."""
    again = b"root\r\n" + 3 * systemd.TERMINAL_RESET + systemd.AGETTY
    terminal = Replay(systemd.AGETTY, again, again, again, again)
    with pytest.raises(VerifyError, match="login prompt starts again") as caught, log_in(terminal, PASSWORD, within=20):
        pass
    assert terminal.typed == [b"root\r", b"root\r"]
    assert "/bin/login" in caught.value.hint
    assert caught.value.diagnosis.cause is Cause.NO_LOGIN_PROGRAM


def test_prompt_that_comes_twice_is_no_restart() -> None:
    """An Enter that was pressed for a getty that was slow to start."""
    terminal = Replay(systemd.AGETTY, b"root\r\n" + systemd.AGETTY + b"Password: ", systemd.LOGGED_IN)
    with pytest.raises(VerifyError, match="no shell answers"), log_in(terminal, PASSWORD, within=20):
        pass
    assert terminal.typed[:2] == [b"root\r", PASSWORD.encode() + b"\r"]


def test_no_prompt_is_told() -> None:
    with pytest.raises(VerifyError, match="no login prompt"), log_in(Deaf(), PASSWORD, within=0.1):
        pass


class Deaf:
    """A console on which nothing ever comes."""

    def read(self, within: float) -> bytes | None:
        select.select([], [], [], min(within, 0.05))
        return b""

    def write(self, data: bytes) -> None:
        pass


def test_end_of_the_machine_is_told() -> None:
    with (
        console("silent") as terminal,
        pytest.raises(VerifyError, match="machine ended"),
        log_in(terminal, PASSWORD, within=60),
    ):
        pass


def test_silent_command_is_given_up_with_the_last_lines() -> None:
    with console("el7") as terminal, log_in(terminal, PASSWORD, within=20) as shell:
        with pytest.raises(VerifyError, match="no answer") as caught:
            shell.run("echo started; sleep 5", within=0.5)
        assert "started" in caught.value.details


def test_echo_alone_is_no_login() -> None:
    """A terminal that only echoes, as `cat` would, after it has asked for name and password."""

    class Parrot:
        def __init__(self) -> None:
            self.waiting = b"host login: Password: # "

        def read(self, _within: float) -> bytes | None:
            said, self.waiting = self.waiting, b""
            return said or None

        def write(self, data: bytes) -> None:
            self.waiting += data.replace(b"\r", b"\r\n") + b"# "

    with pytest.raises(VerifyError), log_in(Parrot(), PASSWORD, within=1):
        pass
