"""The way into a guest that was started: wait until it is ready, find its address, log in with its host key pinned.

Invariant: the fingerprint of the host key comes from the guest's serial port, never from the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder.errors import BuilderError, Cause
from builder.guest import address, ssh
from builder.guest.report import GuestReport, ReportReader
from builder.system import retry
from builder.system.tail import last_lines

READY_EVERY = 0.1  # seconds between two looks at ttyS1
RUNNING_EVERY = 2.0  # seconds between two looks whether the machine runs
SSH_PORT = 22


@dataclass(frozen=True)
class Endpoint:
    """The address and port of the guest's sshd."""

    host: str
    port: int = SSH_PORT


@dataclass(frozen=True)
class AddressLookup:
    """The way an address that a network gives out is found.

    Args:
        mac: of the guest's network card.
        bridge: the host's bridge that the guest is on; None leaves out ARP.
        ask: asks libvirt, for a lease or the guest agent.
    """

    mac: str
    bridge: str | None
    ask: Callable[[], str | None]


@dataclass(frozen=True)
class Guest:
    """A guest that was started, and how it is logged in to.

    Args:
        name: of the machine, for people.
        instance: the instance id that its seed gave it.
        reports: the text of its ttyS1.
        console: the text of its ttyS0; its end is quoted in errors.
        where: an address that is known, or how it is found.
        error: class of the errors.
        hint: where people can read more when the guest does not come up.
    """

    name: str
    instance: str
    reports: Path
    console: Path
    where: Endpoint | AddressLookup
    error: type[BuilderError]
    hint: str


@dataclass(frozen=True)
class Login:
    """A login as root over SSH, where it was made, and the fingerprints of the guest's host keys."""

    session: ssh.GuestSession
    endpoint: Endpoint
    host_keys: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """The limits and signs by which a guest is waited for.

    Args:
        within: seconds until root must be in.
        stop: asked again and again; true gives up.
        require_running: called every two seconds; raises when the machine does not run.
        note: called with what is worth telling people.
    """

    within: float
    stop: Callable[[], bool] = lambda: False
    require_running: Callable[[], None] = lambda: None
    note: Callable[[str], None] = lambda _: None


@contextmanager
def log_in(guest: Guest, key: ssh.PrivateKey, wait: Wait) -> Iterator[Login]:
    """Log in as root over SSH, as soon as the guest lets us.

    Raises:
        BuilderError: (`guest.error`) the guest does not become ready, reports no host key, has no address, shows
            another host key, or refuses ours.
    """
    deadline = time.monotonic() + wait.within
    report = wait_ready(guest, wait)
    if not report.host_keys:
        brief = f"{guest.name} reported no SSH host key on ttyS1"
        raise guest.error(brief, report.text.strip(), guest.hint, cause=Cause.NO_IDENTITY)
    endpoint = _endpoint(guest, wait, max(1.0, deadline - time.monotonic()))
    left = max(1.0, deadline - time.monotonic())
    with ssh.connect(
        endpoint.port, key, report.host_keys, within=left, host=endpoint.host, error=guest.error, stop=wait.stop
    ) as session:
        yield Login(session, endpoint, report.host_keys)


def wait_ready(guest: Guest, wait: Wait) -> GuestReport:
    """Wait until the guest reports that its identity is in place; returns all that it reported.

    Raises:
        BuilderError: (`guest.error`) it does not in time, or the waiting was given up.
    """
    looked = float("-inf")
    reports = ReportReader(guest.reports)

    def ready() -> GuestReport | None:
        nonlocal looked
        if wait.stop():
            raise guest.error(f"waiting for {guest.name} was given up")
        report = reports.read()
        if guest.instance in report.ready:
            return report
        if time.monotonic() - looked > RUNNING_EVERY:
            looked = time.monotonic()
            wait.require_running()
        return None

    report = retry.until(ready, within=max(0.0, wait.within), every=READY_EVERY)
    if report is None:
        brief = f"{guest.name} did not take its identity within {wait.within:.0f} s"
        raise guest.error(brief, last_lines(guest.console), guest.hint, cause=Cause.NO_IDENTITY)
    for warning in report.warnings:
        wait.note(f"{guest.name}: {warning}")
    return report


class Ended(Protocol):
    """The end of a machine: one line for people, and its cause where that is known."""

    @property
    def reason(self) -> str: ...
    @property
    def cause(self) -> Cause | None: ...


def wait_held(
    reports: Path, console: Path, *, within: float, over: Callable[[], Ended | None], error: type[BuilderError]
) -> None:
    """Wait until a guest says that it waits for an identity, so that its machine can be saved.

    Args:
        over: asked again and again how the machine ended; None while it runs.

    Raises:
        BuilderError: (`error`) it does not: its image is older than that, or does not boot.
    """
    reader = ReportReader(reports)

    def look() -> tuple[GuestReport, Ended | None] | None:
        ended = over()
        said = reader.read()
        return (said, ended) if said.held or said.ready or ended else None

    found = retry.until(look, within=within, every=READY_EVERY)
    if found is None:
        raise error(f"the guest did not come up to be saved within {within:.0f} s", last_lines(console))
    said, ended = found
    if said.held:
        return
    if said.ready:
        why = said.warnings[-1] if said.warnings else "it was built before builder could; build it again"
        raise error(f"the image does not wait for an identity: {why}")
    if ended is not None:
        raise error(f"the guest did not come up to be saved: {ended.reason}", last_lines(console), cause=ended.cause)


def _endpoint(guest: Guest, wait: Wait, within: float) -> Endpoint:
    if isinstance(guest.where, Endpoint):
        return guest.where
    lookup = guest.where
    found = address.find(lookup.mac, guest.reports, lookup.bridge, lookup.ask, within=within, stop=wait.stop)
    if found is None:
        raise guest.error(
            f"the address of {guest.name} did not become known within {within:.0f} s",
            f"asked for: a lease, the guest agent, ARP for {lookup.mac}, its own line on ttyS1",
            "does a DHCP server answer on this network? a clone can be given an --address",
            cause=Cause.NO_DHCP,
        )
    wait.note(f"{guest.name}: has the address {found}")
    return Endpoint(found)
