"""A guest's sshd: paramiko's own server on loopback, with one fault at most."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
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
    with tempfile.TemporaryFile() as typed, tempfile.TemporaryFile() as errors:
        typed.write(given)
        typed.seek(0)
        argv = ["sh", "-c", os.fsdecode(command)]
        child = subprocess.Popen(argv, stdin=typed, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        # A client that has enough hangs up.
        with child, contextlib.suppress(OSError, EOFError):
            try:
                assert child.stdout is not None
                while data := os.read(child.stdout.fileno(), 65536):
                    channel.sendall(data)
                child.wait()
                errors.seek(0)
                channel.sendall_stderr(errors.read())
                channel.send_exit_status(child.returncode)
                channel.close()
            except (OSError, EOFError):
                os.killpg(child.pid, signal.SIGKILL)
                raise


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
                except (OSError, EOFError):
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
