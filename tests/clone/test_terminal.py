"""The keys and the window of a console, on a terminal and a line made for the test."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from builder.clones import terminal
from builder.system import retry


class Wire:
    """One end of a socket pair, with the few calls that a console needs."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.wake = end.fileno()

    def read(self) -> bytes | None:
        return self._end.recv(4096) or None

    def write(self, data: bytes) -> None:
        self._end.sendall(data)


class Joined:
    """A running `attach`: type on `keyboard`, be the guest on `guest`, look at `shown`."""

    def __init__(self) -> None:
        self.keyboard, self.slave = pty.openpty()
        self.guest, near = socket.socketpair()
        self.guest.settimeout(10)
        self.line = Wire(near)
        self._near = near
        self.shown, self.screen = os.pipe()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))

    def close(self) -> None:
        for handle in (self.keyboard, self.slave, self.shown, self.screen):
            os.close(handle)
        self.guest.close()
        self._near.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    made = Joined()
    yield made
    made.close()


@contextmanager
def typing(work: object) -> Iterator[None]:
    """Do something in a thread while the main thread, where signals arrive, is attached."""
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


def raw(joined: Joined) -> None:
    """Wait until the terminal is raw: before, it would swallow keys."""
    retry.until(lambda: not termios.tcgetattr(joined.slave)[3] & termios.ICANON or None, within=10, every=0.01)


def attach(joined: Joined) -> bool:
    return terminal.attach(joined.line, joined.slave, joined.screen)  # type: ignore[arg-type]


def test_every_key_is_the_guests_but_two(joined: Joined) -> None:
    got: list[bytes] = []

    def work() -> None:
        raw(joined)
        os.write(joined.keyboard, b"\x03\x04ls\r\x1e")
        while not b"".join(got).endswith(b"cols 132\r"):
            got.append(joined.guest.recv(4096))
        joined.guest.sendall(b"file")
        got.append(os.read(joined.shown, 4096))
        os.write(joined.keyboard, b"bye\x1dnot for the guest")

    before = termios.tcgetattr(joined.slave)
    with typing(work):
        assert attach(joined) is False
    assert b"".join(got) == b"\x03\x04ls\r stty rows 50 cols 132\rfile"
    assert joined.guest.recv(4096) == b"bye"
    after = termios.tcgetattr(joined.slave)
    assert after[3] & termios.ECHO == before[3] & termios.ECHO
    assert after[3] & termios.ICANON


def test_a_changed_window_is_told_when_a_shell_waits(joined: Joined) -> None:
    got: list[bytes] = []

    def work() -> None:
        raw(joined)
        joined.guest.sendall(b"busy")
        os.read(joined.shown, 4096)
        os.kill(os.getpid(), signal.SIGWINCH)
        joined.guest.sendall(b"\r\nroot@guest:~# ")
        got.append(joined.guest.recv(4096))
        os.write(joined.keyboard, b"\x1d")

    with typing(work):
        assert attach(joined) is False
    assert got == [b" stty rows 50 cols 132\r"]


def test_it_ends_with_the_machine(joined: Joined) -> None:
    joined.guest.sendall(b"last words")
    joined.guest.shutdown(socket.SHUT_WR)
    assert attach(joined) is True
    assert os.read(joined.shown, 100) == b"last words"


def test_a_terminal_is_given_back_when_the_line_breaks(joined: Joined) -> None:
    before = termios.tcgetattr(joined.slave)
    joined.guest.close()
    joined.line.read = _broken  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        attach(joined)
    assert termios.tcgetattr(joined.slave)[3] == before[3]
    joined.guest = socket.socket()


def _broken() -> bytes:
    raise ConnectionError
