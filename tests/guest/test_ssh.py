"""A login succeeds with the right host key only, and a failed one reports how far it came."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from pathlib import Path

import paramiko  # type: ignore[import-untyped]
import pytest

from builder.errors import UnreachableError, VerifyError
from builder.guest.ssh import connect, fingerprint, make_keypair
from tests.fakes.sshd import sshd

HOST, _ = make_keypair()
USER, USER_LINE = make_keypair("test")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_login_runs_commands_and_moves_files(tmp_path: Path) -> None:
    with sshd(HOST, USER) as port, connect(port, USER, [fingerprint(HOST)], within=20) as guest:
        assert guest.host_key == f"{HOST.get_name()} {HOST.get_base64()}"
        reply = guest.run("echo out; echo err >&2; exit 3")
        assert (reply.status, reply.out, reply.err) == (3, "out\n", "err\n")
        assert len(guest.run("head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2").out) == 300000
        target = tmp_path / "it's a file"
        guest.put(str(target), b"\0\xffbytes", mode=0o600)
        assert target.read_bytes() == b"\0\xffbytes"
        assert target.stat().st_mode & 0o777 == 0o600


def test_silent_command_is_given_up() -> None:
    with (
        sshd(HOST, USER) as port,
        connect(port, USER, [fingerprint(HOST)], within=20) as guest,
        pytest.raises(UnreachableError, match="did not finish"),
    ):
        guest.run("sleep 1", timeout=0.3)


def test_wrong_host_key_ends_it_at_once_before_authentication() -> None:
    other, _ = make_keypair()
    with (
        sshd(other, USER) as port,
        pytest.raises(VerifyError) as caught,
        connect(port, USER, [fingerprint(HOST)], within=60, error=VerifyError),
    ):
        pass
    assert "wrong host key" in caught.value.details
    assert fingerprint(other) in caught.value.details


def test_refused_key_is_told() -> None:
    with (
        sshd(HOST, None) as port,
        pytest.raises(UnreachableError) as caught,
        connect(port, USER, [fingerprint(HOST)], within=1),
    ):
        pass
    assert "host key right, but the key was refused" in caught.value.details


def test_nothing_listening_is_told() -> None:
    with pytest.raises(UnreachableError) as caught, connect(free_port(), USER, [fingerprint(HOST)], within=0.5):
        pass
    assert "no TCP connection" in caught.value.details


def test_a_port_that_hangs_up_is_no_banner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(UnreachableError) as caught, connect(port, USER, [fingerprint(HOST)], within=0.5):
            pass
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "no SSH banner" in caught.value.details


def test_silent_connections_do_not_hide_one_that_speaks() -> None:
    """User-mode networking accepts long before the guest listens: the first connections stay silent for ever."""
    kept: list[socket.socket] = []
    with sshd(HOST, USER) as inner, socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            for number in range(3):
                client = listener.accept()[0]
                kept.append(client)
                if number == 2:
                    server = socket.create_connection(("127.0.0.1", inner))
                    kept.append(server)
                    pumps.extend(
                        threading.Thread(target=pump, args=pair) for pair in ((client, server), (server, client))
                    )
                    for each in pumps:
                        each.start()

        pumps: list[threading.Thread] = []
        thread = threading.Thread(target=accept)
        thread.start()
        with connect(listener.getsockname()[1], USER, [fingerprint(HOST)], within=20) as guest:
            assert guest.run("echo in").out == "in\n"
        thread.join()
        for each in pumps:
            each.join()
    for each_socket in kept:
        each_socket.close()


def test_a_server_without_common_ground_is_a_failed_key_exchange() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            while True:
                try:
                    client = listener.accept()[0]
                except OSError:
                    return
                client.sendall(b"SSH-2.0-Broken\r\n")
                client.close()

        thread = threading.Thread(target=greet)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(UnreachableError) as caught, connect(port, USER, [fingerprint(HOST)], within=0.5):
            pass
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "key exchange failed" in caught.value.details


def test_sshd_that_comes_up_late_is_met() -> None:
    port = free_port()
    done: list[str] = []

    def log_in() -> None:
        with connect(port, USER, [fingerprint(HOST)], within=20) as guest:
            done.append(guest.run("echo late").out)

    thread = threading.Thread(target=log_in)
    thread.start()
    with sshd(HOST, USER, port=port):
        thread.join(20)
    assert done == ["late\n"]


@pytest.mark.parametrize("bad", [[], ["MD5:aa"], ["SHA256:short"]])
def test_no_pin_no_login(bad: list[str]) -> None:
    with pytest.raises(ValueError, match="fingerprints"), connect(1, USER, bad, within=1):
        pass


def test_public_line_is_the_keys() -> None:
    kind, blob, comment = USER_LINE.split()
    assert (kind, comment) == ("ssh-ed25519", "test")
    assert paramiko.PKey.from_type_string(kind, base64.b64decode(blob)).fingerprint == fingerprint(USER)


def test_a_server_that_falls_silent_after_its_banner_is_told() -> None:
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    kept.append(client)
                    client.sendall(b"SSH-2.0-OpenSSH_7.4\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(UnreachableError) as caught, connect(port, USER, [fingerprint(HOST)], within=1.5):
            pass
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for client in kept:
        client.close()
    assert "SSH-2.0-OpenSSH_7.4 answered, but the key exchange failed" in caught.value.details
