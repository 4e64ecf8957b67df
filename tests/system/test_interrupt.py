"""One interrupt from many signals, seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.unit

HEAD = """
import os, signal, sys
from builder.errors import Interrupted
from builder.system.signals import one_interrupt
def send(name):
    os.kill(os.getpid(), getattr(signal, name))
"""


def said(text: str) -> list[str]:
    """What the script printed."""
    code = HEAD + textwrap.dedent(text)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_signals_are_one_exception_and_cleaning_up_is_not_disturbed() -> None:
    text = """
    old = lambda number, frame: print("old")
    signal.signal(signal.SIGTERM, old)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        try:
            with one_interrupt():
                try:
                    send(name)
                    print("not reached")
                finally:
                    for other in ("SIGTERM", "SIGINT", "SIGHUP"):
                        send(other)
                    print("cleaned")
        except Interrupted as fault:
            print(fault.signal_name)
    send("SIGTERM")
    """
    assert said(text) == ["cleaned", "SIGINT", "cleaned", "SIGTERM", "cleaned", "SIGHUP", "old"]


def test_what_was_ignored_stays_ignored() -> None:
    text = """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with one_interrupt():
        send("SIGHUP")
        print("still", "here")
    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    """
    assert said(text) == ["still", "here", "True", "True"]


def test_an_interrupt_is_no_exception_that_can_be_swallowed() -> None:
    text = """
    try:
        with one_interrupt():
            try:
                send("SIGINT")
            except Exception:
                print("swallowed")
    except Interrupted as fault:
        print(fault.exit_code)
    """
    assert said(text) == ["130"]


def test_another_fault_goes_through_untouched() -> None:
    text = """
    try:
        with one_interrupt():
            raise KeyError("mine")
    except KeyError:
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    assert said(text) == ["True"]
