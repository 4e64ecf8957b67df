"""Ask one mirror: its faults, those that may pass, and what it says of the length of a file.

Sources of the facts: RFC 9110, section 14 (ranges).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests

from builder.errors import Cause
from builder.system import retry
from builder.system.http_bounds import BoundedAdapter, Pace
from builder.system.transfer_progress import brief

# What is read of it when an answer breaks off is lost: less than for local files.
NET_CHUNK = 1 << 16
_CONNECT_TIMEOUT = 10.0
_READ_TIMEOUT = 60.0


class PassingFaultError(Exception):
    """May heal by itself: worth another try on the same mirror."""

    cause = Cause.NO_MIRROR


class MirrorError(Exception):
    """This mirror will not do.

    Attributes:
        why: the same in few words.
    """

    def __init__(self, text: str, why: str = "", cause: Cause = Cause.NOT_ON_MIRRORS) -> None:
        super().__init__(text)
        self.why = why or text
        self.cause = cause


def session(pace: Pace) -> requests.Session:
    """Return a session that gives up mirrors that are too slow: one byte a minute would hold a run for ever."""
    bounded = requests.Session()
    for scheme in ("http://", "https://"):
        bounded.mount(scheme, BoundedAdapter(pace))
    return bounded


@contextmanager
def asked(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """Ask for a file; what goes wrong while the answer is read leaves as one of the two faults here."""
    wanted = {"Accept-Encoding": "identity", **headers}
    try:
        with session.get(url, headers=wanted, stream=True, timeout=(_CONNECT_TIMEOUT, _READ_TIMEOUT)) as answer:
            yield answer
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        if "NameResolutionError" in repr(fault):
            # No name server, or no such host: the next mirror is the better try.
            raise MirrorError(brief(fault), cause=Cause.NO_MIRROR) from None
        raise PassingFaultError(brief(fault)) from None
    except (requests.RequestException, ValueError) as fault:
        # ValueError: a redirect to what is no address.
        raise MirrorError(brief(fault) if isinstance(fault, requests.RequestException) else str(fault)) from None


def refuse(answer: requests.Response) -> None:
    """Raise for every status that brings no file."""
    if retry.may_heal(answer.status_code):
        raise PassingFaultError(f"HTTP {answer.status_code} {answer.reason}")
    if answer.status_code not in (200, 206):
        raise MirrorError(f"HTTP {answer.status_code} {answer.reason}")


def range_start(answer: requests.Response) -> int | None:
    """Return where an answer's range begins; None where it does not say."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def range_total(answer: requests.Response) -> int | None:
    """Return the bytes of the whole file that an answer's range is of; None where it does not say."""
    found = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def total(answer: requests.Response, already: int) -> int | None:
    """Return the bytes of the whole file, of which so many are there; None where the answer does not say."""
    length = answer.headers.get("Content-Length", "")
    return already + int(length) if length.isdigit() else None


def shown(url: str) -> str:
    """Return an address without the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
