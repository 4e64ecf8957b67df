"""Download a file from the first mirror that has it; resume and retry where that helps.

Invariant: a file under its final name has the requested sha256; until then it is called `.part`.
What a server says about ranges, lengths and versions only saves time; the digest decides. A part that was put together
from several answers and turns out wrong is fetched once more in one piece before its mirror is blamed.
Sources of the facts: RFC 9110, sections 13.1.5 (If-Range), 14 (ranges) and 15.5.17 (416).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
import tenacity

from builder.errors import FREE_SPACE, Cause, HostError, MediumError, of_os_error
from builder.stage import Progress
from builder.system import proxies
from builder.system.atomic_file import sync_folder
from builder.system.http_bounds import STEADY, BoundedAdapter, Pace
from builder.system.plain_file import open_plain
from builder.system.transfer_progress import Beat, brief

_CHUNK = 1 << 20
# What is read of it when an answer breaks off is lost: less than for local files.
_NET_CHUNK = 1 << 16
_CONNECT_TIMEOUT = 10.0
_READ_TIMEOUT = 60.0
# Of an answer that does not say how long it is; the largest install media have 13 GiB.
MOST_UNKNOWN = 32 << 30
# Bytes of the disk that a download leaves free, and how many are written between two looks.
RESERVE = 64 << 20
_LOOK_EVERY = 16 << 20
# Besides server errors: a time-out on the server's side, too early, too many requests.
_PASSING = (408, 425, 429)


class _PassingFaultError(Exception):
    """May heal by itself: worth another try on the same mirror."""

    cause = Cause.NO_MIRROR


class _MirrorError(Exception):
    """This mirror will not do.

    Attributes:
        why: the same in few words.
    """

    def __init__(self, text: str, why: str = "", cause: Cause = Cause.NOT_ON_MIRRORS) -> None:
        super().__init__(text)
        self.why = why or text
        self.cause = cause


def fetch(
    urls: Sequence[str],
    sha256: str,
    out: Path,
    *,
    progress: Progress,
    pause: float = 1.0,
    tries: int = 5,
    pace: Pace = STEADY,
) -> None:
    """Download a file from the first mirror that has it.

    Args:
        urls: mirrors, in the order in which they are tried; http or https.
        sha256: what the file must have, 64 hex digits.
        out: its folder must exist. Beside it `.part` stays behind when a download breaks off, and is resumed; not when
            it has filled the disk.
        progress: gets a beat twice a second.
        pause: seconds before the first retry; each further one waits twice as long, up to 30 times as long.
        tries: on one mirror that bring less than 64 KiB.
        pace: least speed of a mirror.

    Raises:
        MediumError: no mirror has it; the details name the fault of each.
        HostError: no space, the folder cannot be written to, or a proxy of the environment is not an address.
    """
    proxies.require_addresses()
    wanted = sha256.lower()
    faults: list[str] = []
    reasons: set[str] = set()
    causes: set[Cause] = set()
    try:
        with _Part(out.with_name(out.name + ".part"), progress) as part:
            for url in urls:
                try:
                    with _session(pace) as session:
                        _from_mirror(session, url, wanted, part, pause, tries)
                except _MirrorError as fault:
                    faults.append(f"{_shown(url)}: {fault}")
                    reasons.add(fault.why)
                    causes.add(fault.cause)
                else:
                    part.publish(out)
                    return
    except OSError as fault:
        raise of_os_error(fault, out) or HostError(f"cannot write {out}: {fault.strerror or fault}") from fault
    raise MediumError(
        f"no mirror gave the install medium {_file_name(urls) or out.name}" + _common(reasons),
        details="\n".join([*faults, f"sha256 wanted: {wanted}"]),
        hint="if you have the ISO: --media FILE; without any: --media rehearsal makes a small one from host packages",
        cause=_likeliest(causes),
    )


def small(
    urls: Sequence[str],
    *,
    limit: int = 1 << 20,
    pause: float = 1.0,
    tries: int = 3,
    pace: Pace = STEADY,
) -> bytes:
    """A small file from the first mirror that has it; nothing is known of its content yet.

    Args:
        limit: bytes; a longer answer is no answer.
        pause, tries, pace: as for `fetch`.

    Raises:
        MediumError: no mirror has it; the details name the fault of each.
    """
    proxies.require_addresses()
    faults = []
    causes: set[Cause] = set()
    with _session(pace) as session:
        for url in urls:
            try:
                return bytes(_retrying(pause, tries, lambda: 0)(_small, session, url, limit))
            except (_MirrorError, _PassingFaultError) as fault:
                faults.append(f"{_shown(url)}: {fault}")
                causes.add(fault.cause)
    brief_ = f"no mirror gave {_file_name(urls) or 'the file'}"
    raise MediumError(brief_, "\n".join(faults), cause=_likeliest(causes))


def _small(session: requests.Session, url: str, limit: int) -> bytes:
    data = b""
    with _asked(session, url, {}) as answer:
        _refuse(answer)
        for chunk in answer.iter_content(_NET_CHUNK):
            data += chunk
            if len(data) > limit:
                raise _MirrorError("too long")
    return data


def _likeliest(causes: set[Cause]) -> Cause:
    """Return the cause to act on: a mirror that may answer later, then one that has another file."""
    return next((cause for cause in (Cause.NO_MIRROR, Cause.WRONG_MEDIUM) if cause in causes), Cause.NOT_ON_MIRRORS)


def _common(reasons: set[str]) -> str:
    """Why, when it is the same everywhere."""
    return f": {next(iter(reasons))}" if len(reasons) == 1 else ""


def _file_name(urls: Sequence[str]) -> str:
    """Display name of the file."""
    return urlsplit(urls[0]).path.rpartition("/")[2] if urls else ""


def _session(pace: Pace) -> requests.Session:
    """Return a session that gives up mirrors that are too slow: one byte a minute would hold a run for ever."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(pace))
    return session


def _from_mirror(session: requests.Session, url: str, wanted: str, part: _Part, pause: float, tries: int) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise _MirrorError("only http and https are accepted")
    part.validator = None
    try:
        _retrying(pause, tries, lambda: part.size)(_attempt, session, url, part)
        if part.digest() != wanted and part.pieced:
            part.restart()
            _retrying(pause, tries, lambda: part.size)(_attempt, session, url, part)
    except _PassingFaultError as fault:
        raise _MirrorError(f"{fault} ({tries} tries)", str(fault), fault.cause) from None
    found = part.digest()
    if found != wanted:
        part.restart()
        raise _MirrorError(f"sha256 is {found}, expected {wanted}", "its sha256 is wrong", Cause.WRONG_MEDIUM)


def _retrying(pause: float, tries: int, got: Callable[[], int]) -> tenacity.Retrying:
    """Asks again while it may heal.

    Args:
        pause: seconds before the first retry; twice as long before each further one that brought nothing.
        tries: that may bring less than 64 KiB, one after the other: a mirror that hangs up after each byte is useless.
        got: bytes that are there.
    """
    fruitless, best = 0, got()

    def count(_: tenacity.RetryCallState) -> None:
        nonlocal fruitless, best
        fruitless = 0 if got() - best >= _NET_CHUNK else fruitless + 1
        best = max(best, got())

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_PassingFaultError),
        after=count,
        stop=lambda _: fruitless >= tries,
        wait=lambda _: pause * min(2.0 ** max(0, fruitless - 1), 30),
        reraise=True,
    )


def _attempt(session: requests.Session, url: str, part: _Part) -> None:
    """One request; returns when the server says that this was all."""
    headers = {}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    with _asked(session, url, headers) as answer:
        if _accept(answer, part):
            part.take(answer.iter_content(_NET_CHUNK), _total(answer, part.size), urlsplit(url).hostname or "")


@contextmanager
def _asked(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """The answer of a server; what goes wrong while it is read leaves as one of the two faults here."""
    wanted = {"Accept-Encoding": "identity", **headers}
    try:
        with session.get(url, headers=wanted, stream=True, timeout=(_CONNECT_TIMEOUT, _READ_TIMEOUT)) as answer:
            yield answer
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        if "NameResolutionError" in repr(fault):
            # No name server, or no such host: the next mirror is the better try.
            raise _MirrorError(brief(fault), cause=Cause.NO_MIRROR) from None
        raise _PassingFaultError(brief(fault)) from None
    except (requests.RequestException, ValueError) as fault:
        # ValueError: a redirect to what is no address.
        raise _MirrorError(brief(fault) if isinstance(fault, requests.RequestException) else str(fault)) from None


def _refuse(answer: requests.Response) -> None:
    """Raise for every status that brings no file."""
    if answer.status_code >= 500 or answer.status_code in _PASSING:
        raise _PassingFaultError(f"HTTP {answer.status_code} {answer.reason}")
    if answer.status_code not in (200, 206):
        raise _MirrorError(f"HTTP {answer.status_code} {answer.reason}")


def _accept(answer: requests.Response, part: _Part) -> bool:
    """Look at the status and set the part to where the answer's bytes belong; False when there is nothing to read."""
    status = answer.status_code
    if status == 416 and part.size:
        # Complete already, or longer than what the server has: the digest tells.
        if _range_total(answer) == part.size:
            return False
        part.restart()
        raise _PassingFaultError("the file is shorter than what was there of it")
    _refuse(answer)
    if status == 206 and _range_start(answer) != part.size:
        part.restart()
        raise _PassingFaultError("the server answered with another range than was asked for")
    if status == 200:
        # The whole file: ranges are not supported, or it changed since.
        part.restart()
    elif part.size:
        part.pieced = True
    strong = answer.headers.get("ETag", "")
    part.validator = (strong if strong.startswith('"') else None) or answer.headers.get("Last-Modified")
    return True


def _range_start(answer: requests.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _range_total(answer: requests.Response) -> int | None:
    found = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(answer: requests.Response, already: int) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return already + int(length) if length.isdigit() else None


class _Part:
    """The file that grows: locked, hashed as it is written.

    Attributes:
        validator: ETag or date of the version that the bytes so far came from; None when that is not known.
        pieced: the bytes come from more than one answer.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self.validator: str | None = None
        self.pieced = False
        self.size = 0
        self._progress = progress
        self._sha256 = hashlib.sha256()
        self._file: BinaryIO

    def __enter__(self) -> _Part:
        self._file = self._locked()
        self._file.seek(0)
        while data := self._file.read(_CHUNK):
            self._sha256.update(data)
            self.size += len(data)
        self.pieced = self.size > 0
        return self

    def _locked(self) -> BinaryIO:
        while True:
            file = os.fdopen(open_plain(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise HostError(f"{self.path} is being downloaded by another builder", hint="wait for it") from None
            # Not one that somebody has given its final name meanwhile: that must not be written to.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            file.close()

    def __exit__(self, *_: object) -> None:
        if self.size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def digest(self) -> str:
        return self._sha256.hexdigest()

    def restart(self) -> None:
        """Drop what is there, also what a full disk does not take."""
        with suppress(OSError):
            self._file.flush()
        os.ftruncate(self._file.fileno(), 0)
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.pieced = False
        self.validator = None

    def take(self, chunks: Iterator[bytes], total: int | None, host: str) -> None:
        """Append what comes.

        Args:
            total: size of the whole file, None where the server does not say.

        Raises:
            HostError: the disk has no space for it.
        """
        if total is not None:
            self._require_space(total - self.size)
        limit = MOST_UNKNOWN if total is None else total
        beat = Beat(self._progress, self.size, total, f"from {host}")
        looked = self.size
        for data in chunks:
            if self.size + len(data) > limit:
                self.restart()
                raise _MirrorError(f"it sends more than {limit} bytes", "it sends too much", Cause.WRONG_MEDIUM)
            if total is None and self.size - looked >= _LOOK_EVERY:
                looked = self.size
                with self._dropped():
                    self._require_space(_LOOK_EVERY)
            with self._dropped():
                self._file.write(data)
            self._sha256.update(data)
            self.size += len(data)
            beat.at(self.size)

    @contextmanager
    def _dropped(self) -> Iterator[None]:
        """Give the space back when there is none left: nobody could do anything with what is there."""
        try:
            yield
        except (HostError, OSError):
            self.restart()
            raise

    def _require_space(self, size: int) -> None:
        disk = os.fstatvfs(self._file.fileno())
        free = disk.f_bavail * disk.f_frsize
        if free < size + RESERVE:
            text = f"no space for {self.path.name}: {size >> 20} MiB to come, {free >> 20} MiB are free"
            raise HostError(text, f"{RESERVE >> 20} MiB are left free", FREE_SPACE, cause=Cause.DISK_FULL)

    def publish(self, out: Path) -> None:
        """Give it its final name."""
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o644)
        os.fsync(self._file.fileno())
        self.path.rename(out)
        sync_folder(out.parent)


def _shown(url: str) -> str:
    """The address without a password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
