"""The one rule: while a guest's console is on the terminal every key is the guest's, but for two.

Ctrl-] leaves. Ctrl-^ types the terminal's size into the guest: a serial line has no other way to tell it. After the
window has changed it is done by itself, as soon as a shell waits for a command.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from builder.vm.domains import Line

LEAVE = b"\x1d"  # Ctrl-]
TELL_SIZE = b"\x1e"  # Ctrl-^
PROMPT = re.compile(rb"[#$] (?:\x1b\[[0-9;?]*[A-Za-z])*$")
CHUNK = 4096


def attach(line: Line, keyboard: int, screen: int) -> bool:
    """Join a terminal and a console until Ctrl-] or the end of the machine.

    Args:
        keyboard: descriptor that is read; made raw if it is a terminal.
        screen: descriptor that is written to.

    Returns:
        Whether the console ended by itself.
    """
    with _raw(keyboard), _resizes() as resized:
        tail, told = b"", True
        while True:
            ready = select.select([keyboard, line.wake, resized], [], [])[0]
            if line.wake in ready:
                data = line.read()
                if data is None:
                    return True
                _write(screen, data)
                tail = (tail + data)[-64:]
            if resized in ready:
                os.read(resized, CHUNK)
                told = False
            if not told and PROMPT.search(tail):
                line.write(_size_command(keyboard))
                told = True
            if keyboard in ready:
                keys = os.read(keyboard, CHUNK)
                before, leave, _ = keys.partition(LEAVE)
                if before:
                    line.write(before.replace(TELL_SIZE, _size_command(keyboard)))
                if leave or not keys:
                    return False


@contextmanager
def _raw(keyboard: int) -> Iterator[None]:
    if not os.isatty(keyboard):
        yield
        return
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextmanager
def _resizes() -> Iterator[int]:
    """A descriptor that becomes readable when the window has changed."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(_number: int, _frame: Any) -> None:
        try:
            os.write(writer, b".")
        except BlockingIOError:
            return

    before = signal.signal(signal.SIGWINCH, note)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)


def _size_command(keyboard: int) -> bytes:
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(keyboard, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return b""
    return f" stty rows {rows} cols {columns}\r".encode() if rows and columns else b""


def _write(screen: int, data: bytes) -> None:
    while data:
        data = data[os.write(screen, data) :]
