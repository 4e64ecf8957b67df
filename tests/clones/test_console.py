"""`builder vm console`: a raw terminal until its escape key, one at a time unless it is taken over."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time
from contextlib import suppress

import pytest

from builder.clones import record
from builder.clones.store import CloneStore
from builder.errors import HostError, PublishError
from builder.system import packages, retry
from builder.vm.domains import Domains
from tests.clones.conftest import ROOT, CloneEnv

pytestmark = pytest.mark.vm


class Typist:
    """`builder vm console` on a terminal of its own."""

    def __init__(self, house: CloneEnv, *words: str) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ["PYTHONPATH"] = str(ROOT)
            command = [sys.executable, "-m", "builder", "--artifacts", str(house.folder), "vm", "console", *words]
            os.execv(command[0], command)
        self.seen = b""

    def until(self, words: bytes, within: float = 30) -> bytes:
        """All that was shown, once it holds the words."""
        deadline = time.monotonic() + within
        while words not in self.seen and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.5)[0]:
                with suppress(OSError):
                    self.seen += os.read(self.terminal, 4096)
        assert words in self.seen, self.seen
        return self.seen

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def status(self) -> int:
        code = retry.until(lambda: self._reap(), within=20)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise AssertionError("the console did not end")
        os.close(self.terminal)
        return code

    def _reap(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def test_the_console_is_a_raw_terminal_until_its_escape_key(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    assert house.run("vm", "console", vm.name).returncode == 7
    store.start(vm.name)
    typist = Typist(house, vm.name)
    try:
        typist.until(b"Ctrl-] (^]) leaves")
        typist.until(b"Connected to domain")
        # What the machine printed before the console was opened is in the log; what it prints now is on the terminal.
        host.host.connection.lookupByName(vm.name).reset(0)
        typist.until(b"root@sector# ")
        local = termios.tcgetattr(typist.terminal)[3]
        assert not local & (termios.ECHO | termios.ICANON | termios.ISIG)
        other = Typist(house, vm.name)
        try:
            other.until(b"Active console session exists")
        finally:
            assert other.status() == 1
        typist.type(b"\x1d")
    finally:
        code = typist.status()
    assert code == 0


def test_the_console_ends_with_its_machine(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    store.start(vm.name)
    typist = Typist(house, vm.name)
    try:
        typist.until(b"Connected to domain")
        # virsh says so before it is.
        host.host.connection.lookupByName(vm.name).reset(0)
        typist.until(b"root@sector# ")
        store.stop(vm.name, now=True)
    finally:
        code = typist.status()
    assert code == 0


def test_force_takes_the_console_over_and_reaches_machines_of_others(
    house: CloneEnv, host: Domains, store: CloneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (vm,) = house.make(host, "web")
    store.start(vm.name)
    virsh = [packages.find_program("virsh"), "--connect", house.uri, "console", "--domain", vm.name]
    assert store.console_command(vm.name) == virsh
    assert store.console_command(vm.name, force=True) == [*virsh, "--force"]
    (store.path(vm.name) / record.RECORD).unlink()
    with pytest.raises(PublishError, match="was not made by builder"):
        store.console_command(vm.name)
    assert store.console_command(vm.name, force=True) == [*virsh, "--force"]
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="virsh is not installed") as missing:
        store.console_command(vm.name, force=True)
    assert "install" in missing.value.hint
