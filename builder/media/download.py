"""Download a file from the first mirror that has it; resume and retry where that helps.

Invariant: a file under its final name has the requested sha256; until then it is called `.part`.
What a server says about ranges, lengths and versions only saves time; the digest decides. A part that was put together
from several answers and turns out wrong is fetched once more in one piece before its mirror is blamed.
Sources of the facts: RFC 9110, sections 13.1.5 (If-Range), 14 (ranges) and 15.5.17 (416).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests

from builder.errors import Cause, HostError, MediumError, of_os_error
from builder.media import mirror
from builder.media.mirror import MirrorError, PassingFaultError
from builder.media.partial_file import PartialFile
from builder.stage import Progress
from builder.system import proxies, retry
from builder.system.http_bounds import STEADY, Pace

T = TypeVar("T")


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
        with PartialFile(out.with_name(out.name + ".part"), progress) as part:
            for url in urls:
                try:
                    with mirror.session(pace) as session:
                        _from_mirror(session, url, wanted, part, pause, tries)
                except MirrorError as fault:
                    faults.append(f"{mirror.shown(url)}: {fault}")
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
    with mirror.session(pace) as session:
        for url in urls:
            try:
                return _retried(partial(_small, session, url, limit), pause, tries)
            except (MirrorError, PassingFaultError) as fault:
                faults.append(f"{mirror.shown(url)}: {fault}")
                causes.add(fault.cause)
    brief_ = f"no mirror gave {_file_name(urls) or 'the file'}"
    raise MediumError(brief_, "\n".join(faults), cause=_likeliest(causes))


def _small(session: requests.Session, url: str, limit: int) -> bytes:
    data = b""
    with mirror.asked(session, url, {}) as answer:
        mirror.refuse(answer)
        for chunk in answer.iter_content(mirror.NET_CHUNK):
            data += chunk
            if len(data) > limit:
                raise MirrorError("too long")
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


def _from_mirror(session: requests.Session, url: str, wanted: str, part: PartialFile, pause: float, tries: int) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise MirrorError("only http and https are accepted")
    part.validator = None
    try:
        attempt, got = partial(_attempt, session, url, part), lambda: part.size
        _retried(attempt, pause, tries, got)
        if part.digest() != wanted and part.pieced:
            part.restart()
            _retried(attempt, pause, tries, got)
    except PassingFaultError as fault:
        raise MirrorError(f"{fault} ({tries} tries)", str(fault), fault.cause) from None
    found = part.digest()
    if found != wanted:
        part.restart()
        raise MirrorError(f"sha256 is {found}, expected {wanted}", "its sha256 is wrong", Cause.WRONG_MEDIUM)


def _retried(work: Callable[[], T], pause: float, tries: int, got: Callable[[], int] = lambda: 0) -> T:
    """Ask again while it may heal; a mirror that hangs up after each byte makes no headway."""
    return retry.with_headway(
        work, passing=PassingFaultError, tries=tries, first=pause, got=got, enough=mirror.NET_CHUNK
    )


def _attempt(session: requests.Session, url: str, part: PartialFile) -> None:
    """Make one request; return when the server says that this was all."""
    headers = {}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    with mirror.asked(session, url, headers) as answer:
        if _accept(answer, part):
            chunks, total = answer.iter_content(mirror.NET_CHUNK), mirror.total(answer, part.size)
            part.take(chunks, total, urlsplit(url).hostname or "")


def _accept(answer: requests.Response, part: PartialFile) -> bool:
    """Look at the status and set the part to where the answer's bytes belong; False when there is nothing to read."""
    status = answer.status_code
    if status == 416 and part.size:
        # Complete already, or longer than what the server has: the digest tells.
        if mirror.range_total(answer) == part.size:
            return False
        part.restart()
        raise PassingFaultError("the file is shorter than what was there of it")
    mirror.refuse(answer)
    if status == 206 and mirror.range_start(answer) != part.size:
        part.restart()
        raise PassingFaultError("the server answered with another range than was asked for")
    if status == 200:
        # The whole file: ranges are not supported, or it changed since.
        part.restart()
    elif part.size:
        part.pieced = True
    strong = answer.headers.get("ETag", "")
    part.validator = (strong if strong.startswith('"') else None) or answer.headers.get("Last-Modified")
    return True
