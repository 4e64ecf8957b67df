"""A guest's sshd: paramiko's own server on loopback, with one fault at most."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko  # type: ignore[import-untyped]


class _Server(paramiko.ServerInterface):  # type: ignore[misc]
    def __init__(self, allowed: paramiko.PKey | None) -> None:
        self.allowed = allowed

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if username == "root" and self.allowed is not None and key.asbytes() == self.allowed.asbytes():
            return int(paramiko.AUTH_SUCCESSFUL)
        return int(paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, _chanid: int) -> int:
        refused = paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        return int(paramiko.OPEN_SUCCEEDED if kind == "session" else refused)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_execute, args=(channel, command)).start()
        return True


def _execute(channel: paramiko.Channel, command: bytes) -> None:
    given = bytearray()
    while data := channel.recv(65536):
        given += data
    done = subprocess.run(["sh", "-c", command], input=bytes(given), capture_output=True, check=False)
    channel.sendall(done.stdout)
    channel.sendall_stderr(done.stderr)
    channel.send_exit_status(done.returncode)
    channel.close()


@contextmanager
def sshd(host_key: paramiko.PKey, allowed: paramiko.PKey | None, port: int = 0) -> Iterator[int]:
    """Serve on 127.0.0.1, on a free port unless one is given; commands run in a shell of this host.

    Args:
        allowed: the one key that root may log in with; None refuses everybody.
    """
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                transport = paramiko.Transport(client)
                transport.add_server_key(host_key)
                transports.append(transport)
                # With an event it does not block this thread, and a client that hangs up is no error here.
                transport.start_server(event=threading.Event(), server=_Server(allowed))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for transport in transports:
                transport.close()
