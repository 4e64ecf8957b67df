"""SSH attempts report their state; temporary failures are retried until time is up, a wrong key is refused at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from builder.diagnosis import classify
from builder.errors import BuilderError, VerifyError
from builder.guest import ssh
from tests.fakes.sshd import sshd
from tests.fault_table import FaultRow

WITHIN = 1.0


@contextmanager
def speaker(words: bytes) -> Iterator[int]:
    """Accepts connections and says these words; then it waits for the other side to go."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opened: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                opened.append(client)
                client.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for client in opened:
                client.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def attempt(port: int, key: Any, fingerprint: str, within: float = WITHIN) -> str:
    """The cause that a failed login has."""
    with (
        pytest.raises(BuilderError) as caught,
        ssh.connect(port, key, [fingerprint], within=within, error=VerifyError),
    ):
        pass
    named = classify.diagnose(caught.value)
    assert named.diagnosis.line
    return named.diagnosis.cause or ""


@pytest.fixture(scope="module")
def keys() -> tuple[Any, Any]:
    """A guest's host key and a user's key."""
    return ssh.make_keypair()[0], ssh.make_keypair()[0]


def test_nobody_listens(keys: Any, fault_row: FaultRow) -> None:
    with fault_row("SSH: the port is closed (limit 1 s)", kind="stall") as row:
        row.judged(attempt(closed_port(), keys[1], ssh.fingerprint(keys[0])))
        assert row.verdict == "no TCP"


def test_nobody_speaks(keys: Any, fault_row: FaultRow) -> None:
    with fault_row("SSH: connected, but silent (limit 1 s)", kind="stall") as row, speaker(b"") as port:
        row.judged(attempt(port, keys[1], ssh.fingerprint(keys[0])))
        assert row.verdict == "no banner"


def test_no_common_key_exchange(keys: Any, fault_row: FaultRow) -> None:
    # A binary packet (RFC 4253, section 6) of an impossible length, where the key exchange should begin.
    words = b"SSH-2.0-OpenSSH_7.4\r\n" + b"\xff" * 64
    with fault_row("SSH: the key exchange fails (limit 1 s)", kind="stall") as row, speaker(words) as port:
        row.judged(attempt(port, keys[1], ssh.fingerprint(keys[0])))
        assert row.verdict == "key exchange"


def test_root_is_refused(keys: Any, fault_row: FaultRow) -> None:
    with fault_row("SSH: sshd refuses root (limit 1 s)", kind="stall") as row, sshd(keys[0], None) as port:
        row.judged(attempt(port, keys[1], ssh.fingerprint(keys[0])))
        assert row.verdict == "sshd refuses root"


def test_root_is_refused_for_good(keys: Any, fault_row: FaultRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is refused over and over is not tried until the limit, which may be twenty minutes away."""
    monkeypatch.setattr(ssh, "REFUSED", 0.5)
    with fault_row("SSH: sshd refuses root for 0.5 s", kind="stall") as row, sshd(keys[0], None) as port:
        row.judged(attempt(port, keys[1], ssh.fingerprint(keys[0]), within=60))
        assert row.verdict == "sshd refuses root"
        assert row.seen - row.happened < 30


def test_another_host_key(keys: Any, fault_row: FaultRow) -> None:
    with fault_row("SSH: another host key answers") as row, sshd(keys[0], keys[1]) as port:
        row.judged(attempt(port, keys[1], ssh.fingerprint(keys[1])))
        assert row.verdict == "wrong host key"
