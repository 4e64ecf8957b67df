"""SSH sessions with guests.

Invariant: no session without the guest's host key, known beforehand from another channel. The fingerprints come from
the guest's own serial port. A key with another fingerprint ends the attempt before the guest learns who is connecting;
there is no policy that accepts an unknown key.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import re
import select
import shlex
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builder.errors import BuilderError, Cause, RecipeError, UnreachableError
from builder.system import retry

if TYPE_CHECKING:
    import paramiko  # type: ignore[import-untyped]

    PrivateKey: TypeAlias = paramiko.PKey

# paramiko tells every failed attempt on stderr through a logger of its own; the attempts are told here.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
EVERY = 0.1  # seconds between two attempts
STEP = 15.0  # seconds that one step of one attempt may take: an emulated guest needs seconds for a key exchange
PATIENCE = 4.0  # seconds that a silent connection is kept at first
REFUSED = 20.0  # seconds after the first refusal of a key; the seed's keys are there long before
OPEN = 4  # silent connections kept at a time
OUTPUT = 16 << 20  # bytes of one output of a command; the list of all packages has some hundred KiB
LONGEST = 60  # times the silence that a command may last altogether


class KeyPair(NamedTuple):
    """A key to log in with: its private half, and its public half as a line for authorized_keys."""

    private: PrivateKey
    public: str


@dataclass(frozen=True)
class Reply:
    """The result of a command: exit status (-1 when it was killed) and both outputs."""

    status: int
    out: str
    err: str


def make_keypair(comment: str = "builder") -> KeyPair:
    """Make an Ed25519 key, in memory only."""
    key = _paramiko().Ed25519Key.from_private_key(io.StringIO(make_private_key().decode()))
    return KeyPair(key, public_line(key, comment))


def make_private_key() -> bytes:
    """A fresh Ed25519 key in OpenSSH's form, without a passphrase."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def load_key(path: Path) -> paramiko.PKey:
    """A private key without a passphrase.

    Raises:
        RecipeError: it cannot be read, or needs a passphrase.
    """
    library = _paramiko()
    try:
        key: paramiko.PKey = library.PKey.from_path(path)
    except (OSError, ValueError, TypeError, library.SSHException, library.UnknownKeyType) as fault:
        raise RecipeError(
            f"{path} is no private key that can be used: {fault or type(fault).__name__}",
            hint="a key with a passphrase cannot be used unattended: give another one with --ssh-key",
        ) from fault
    return key


def public_line(key: paramiko.PKey, comment: str = "builder") -> str:
    """The key's public half as one line for authorized_keys."""
    return f"{key.get_name()} {key.get_base64()} {comment}"


def fingerprint(key: paramiko.PKey) -> str:
    """The form that ssh-keygen prints: SHA256: and unpadded base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


@contextmanager
def connect(
    port: int,
    key: paramiko.PKey,
    fingerprints: Collection[str],
    *,
    within: float,
    host: str = "127.0.0.1",
    user: str = "root",
    error: type[BuilderError] = UnreachableError,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[GuestSession]:
    """Log in with a key, as soon as the guest's sshd lets us.

    Args:
        stop: asked before each attempt; true gives up, because the machine is being taken away.
        fingerprints: those the host key may have, one for each of the guest's keys (`SHA256:…`).
        within: seconds until it is given up. A wrong host key is given up at once, a key that is still refused 20 s
            after it first was, too.

    Raises:
        UnreachableError: (or `error`) it did not answer in time, showed another host key, or refused the key; says
            how far the last attempt came.
        ValueError: no fingerprint, or one that is none.
    """
    if not fingerprints or not all(FINGERPRINT.fullmatch(one) for one in fingerprints):
        raise ValueError(f"not a list of SHA256 fingerprints: {fingerprints}")
    start = time.monotonic()
    state, cause = "nothing was tried", None
    refused: float | None = None
    pool = _ConnectionPool(host, port)

    def attempt() -> paramiko.Transport | None:
        nonlocal state, cause, refused
        if stop():
            raise error(f"the SSH login at {host}:{port} was given up", details=f"last attempt: {state}", cause=cause)
        elapsed = time.monotonic() - start
        try:
            connection = pool.first_ready(elapsed)
            return _log_in(connection, user, key, fingerprints, min(STEP, max(1.0, within - elapsed)))
        except _AttemptError as failed:
            if failed.refused and refused is None:
                refused = elapsed
            if failed.final or (failed.refused and elapsed - (refused or 0.0) >= REFUSED):
                raise failed.to_error(error, host, port) from None
            state, cause = failed.state, failed.cause
            return None

    with contextlib.closing(pool):
        transport = retry.until(attempt, within=within, every=EVERY)
    if transport is None:
        raise error(
            f"no SSH login as {user} at {host}:{port} within {within:.0f} s",
            details=f"last attempt: {state}",
            hint="read the console log: did the guest boot, did its sshd start?",
            cause=cause,
        )
    try:
        yield GuestSession(transport)
    finally:
        transport.close()


class GuestSession:
    """A login in a guest."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    @property
    def host_key(self) -> str:
        """The host key that this session was made with, as known_hosts has it: type and base64."""
        key = self._transport.get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 120.0) -> Reply:
        """Run a shell command to its end.

        Args:
            timeout: seconds of silence after which it is given up. Sixty times as long in all.

        Raises:
            UnreachableError: the connection broke, or the command said nothing for too long, or too much.
        """
        try:
            with self._transport.open_session(timeout=timeout) as channel:
                channel.settimeout(timeout)
                channel.exec_command(command)
                if stdin:
                    channel.sendall(stdin)
                channel.shutdown_write()
                out, err = _outputs(channel, timeout)
                return Reply(channel.recv_exit_status(), out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
        except Exception as fault:
            # A guest that breaks the protocol makes paramiko raise what its parsers raise, ValueError for one.
            raise UnreachableError(
                "the guest did not finish a command", details=f"{command}\n{fault or type(fault).__name__}"
            ) from fault

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a small file: first beside its place, then by one rename.

        Raises:
            UnreachableError: the guest could not.
        """
        target, beside = shlex.quote(path), shlex.quote(f"{path}.builder")
        script = f"umask 077 && cat >{beside} && chmod {mode:o} {beside} && mv -f {beside} {target}"
        reply = self.run(script, stdin=content)
        if reply.status != 0:
            raise UnreachableError(f"the guest could not write {path}", details=reply.err)


class _AttemptError(Exception):
    """Failure of one attempt; `final` when a retry cannot help, `refused` when it hardly will."""

    def __init__(self, state: str, cause: Cause, *, final: bool = False, refused: bool = False, hint: str = "") -> None:
        super().__init__(state)
        self.state = state
        self.cause = cause
        self.final = final
        self.refused = refused
        self.hint = hint

    def to_error(self, kind: type[BuilderError], host: str, port: int) -> BuilderError:
        """Return the error that ends all attempts."""
        return kind(f"no SSH login at {host}:{port}", self.state, self.hint, cause=self.cause)


class _ConnectionPool:
    """Opens connections to a port at which a guest may be listening one day.

    User-mode networking accepts for a guest whose network is not up, says nothing, and tries again ever more rarely;
    so a silent connection tells nothing about a newer one. A few are kept, and the first that speaks is taken.
    """

    def __init__(self, host: str, port: int) -> None:
        self._endpoint = (host, port)
        self._open: dict[socket.socket, float] = {}

    def close(self) -> None:
        """Close the silent ones."""
        while self._open:
            self._open.popitem()[0].close()

    def first_ready(self, elapsed: float) -> socket.socket:
        """Return a connection on which the other side has begun to speak; the others are closed.

        Args:
            elapsed: seconds since the first attempt; a guest that is slow to speak is given more time.

        Raises:
            _AttemptError: none does.
        """
        patience = min(STEP, max(PATIENCE, elapsed / 4))
        now = time.monotonic()
        for connection, opened in list(self._open.items()):
            if now - opened > patience:
                del self._open[connection]
                connection.close()
        if all(now - opened >= patience / OPEN for opened in self._open.values()):
            self._dial(now)
        state = f"connected, but no SSH banner within {patience:.0f} s"
        for connection in select.select(list(self._open), [], [], EVERY)[0]:
            del self._open[connection]
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    self.close()
                    return connection
                state = "connected, but no SSH banner (closed)"
            except OSError as fault:
                state = f"connected, but no SSH banner ({fault.strerror})"
            connection.close()
        raise _AttemptError(state, Cause.NO_BANNER)

    def _dial(self, now: float) -> None:
        try:
            self._open[socket.create_connection(self._endpoint, timeout=STEP)] = now
        except OSError as fault:
            raise _AttemptError(f"no TCP connection ({fault.strerror or fault})", Cause.NO_TCP) from None


def _log_in(
    connection: socket.socket, user: str, key: paramiko.PKey, fingerprints: Collection[str], step: float
) -> paramiko.Transport:
    transport: paramiko.Transport | None = None
    try:
        transport = _paramiko().Transport(connection)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = step
        seen = fingerprint(_exchange_keys(transport, step))
        if seen not in fingerprints:
            raise _AttemptError(
                f"wrong host key {seen}; the guest itself printed {', '.join(sorted(fingerprints))}",
                Cause.WRONG_HOST_KEY,
                final=True,
                hint="another machine answers there, or the guest made its keys again after it printed them",
            )
        _authenticate(transport, user, key)
    except BaseException:
        if transport is None:
            connection.close()
        else:
            transport.close()
        raise
    return transport


def _exchange_keys(transport: paramiko.Transport, step: float) -> paramiko.PKey:
    """The host key that the guest has proved to hold."""
    try:
        transport.start_client(timeout=step)
        # start_client also returns when its time is over; then there is no key yet, and asking for it raises.
        return transport.get_remote_server_key()
    except Exception as fault:  # whatever paramiko's parsers raise
        if not transport.remote_version:
            state = f"connected, but no SSH banner ({fault or 'closed'})"
            raise _AttemptError(state, Cause.NO_BANNER) from None
        state = f"{transport.remote_version} answered, but the key exchange failed ({fault})"
        raise _AttemptError(state, Cause.KEY_EXCHANGE) from None


def _authenticate(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> None:
    try:
        transport.auth_publickey(user, key)
    except _paramiko().AuthenticationException:
        # Not final: keys from the seed may be written a moment after sshd is up.
        raise _AttemptError(
            f"host key right, but the key was refused for {user}",
            Cause.SSHD_REFUSES_ROOT,
            refused=True,
            hint="PermitRootLogin and authorized_keys of the guest decide; the seed brings the key",
        ) from None
    except Exception as fault:  # whatever paramiko's parsers raise
        raise _AttemptError(f"host key right, but the login broke off ({fault})", Cause.SSHD_REFUSES_ROOT) from None
    if not transport.is_authenticated():
        state = f"host key right, but the guest wants more than a key for {user}"
        raise _AttemptError(state, Cause.SSHD_REFUSES_ROOT)


def _paramiko() -> Any:
    # Not at the head: it takes 0.3 s and 17 MiB to load, and lists of images or VMs and runs with nothing to do log in
    # nowhere.
    import paramiko

    return paramiko


def _outputs(channel: paramiko.Channel, timeout: float) -> tuple[bytes, bytes]:
    """Both outputs to their ends, read in turn so that neither can fill its window and block the other."""
    out, err = bytearray(), bytearray()
    deadline = time.monotonic() + timeout
    end = time.monotonic() + LONGEST * timeout

    def drained() -> bool | None:
        nonlocal deadline
        got = False
        while len(out) <= OUTPUT and channel.recv_ready():
            out.extend(channel.recv(65536))
            got = True
        while len(err) <= OUTPUT and channel.recv_stderr_ready():
            err.extend(channel.recv_stderr(65536))
            got = True
        if max(len(out), len(err)) > OUTPUT:
            raise OverflowError(f"it wrote more than {OUTPUT >> 20} MiB")
        if time.monotonic() > end:
            raise TimeoutError(f"not at its end after {LONGEST * timeout:.0f} s")
        if got:
            deadline = time.monotonic() + timeout
        if channel.exit_status_ready() and channel.eof_received and not got:
            return True
        if channel.closed and not got:
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"silent for {timeout:g} s")
        return None

    retry.until(drained, within=float("inf"), every=0.01)
    return bytes(out), bytes(err)
