"""The way into a clone: waiting until root can log in, a session over SSH, and what ssh(1) needs to know.

Invariant: the clone's known_hosts has only the host key whose fingerprint the clone reported on ttyS1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from builder.clones.lifecycle import place, state_of
from builder.clones.record import CONSOLE, KNOWN_HOSTS, REPORTS, Vm, changing, find, save
from builder.errors import BuilderError, RecipeError, UnreachableError
from builder.guest import ssh
from builder.guest.login import AddressLookup, Endpoint, Guest, Wait, log_in
from builder.settings import TCG_FACTOR
from builder.system import host_facts
from builder.system.atomic_file import replacing
from builder.system.tail import last_lines
from builder.vm.domains import Domains


def limit(boot: float, vms: list[Vm]) -> float:
    """Return the seconds until root must be in: emulated machines that start together share the host's processors."""
    if not any(vm.accel == "tcg" for vm in vms):
        return boot
    return boot * TCG_FACTOR * max(1.0, len(vms) / host_facts.cpu_count())


def wait_all(
    vms: Path, domains: Domains, waited: list[Vm], within: float, tell: Callable[[str], None]
) -> dict[str, BuilderError]:
    """Wait, side by side, until root is in on all; why it is not, by name, for those that fail.

    Raises:
        RecipeError: the private key of one is not known.
    """
    for vm in waited:
        _private(vm)
    start = time.monotonic()
    given_up = threading.Event()

    def one(vm: Vm) -> BuilderError | None:
        try:
            with session(vms, domains, vm, within, stop=given_up.is_set):
                tell(f"{vm.name}: root is in after {time.monotonic() - start:.0f} s")
        except BuilderError as fault:
            tell(f"{vm.name}: {fault.brief}")
            return fault
        return None

    with ThreadPoolExecutor(max(1, len(waited)), thread_name_prefix="wait") as pool:
        try:
            results = list(pool.map(one, waited))
        finally:
            # After an interrupt nobody wants to know any more, and the threads have to end first.
            given_up.set()
    return {vm.name: fault for vm, fault in zip(waited, results, strict=True) if fault is not None}


@contextmanager
def session(
    vms: Path, domains: Domains, vm: Vm, within: float, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[ssh.GuestSession]:
    """Log in as root; the host key is written to the clone's known_hosts, and an address that was found to its record.

    Args:
        stop: asked again and again; true gives up.

    Raises:
        UnreachableError: it does not come up in time, is off, or shows another host key.
        RecipeError: its private key is not known.
    """
    folder = vms / vm.name
    guest = Guest(
        name=vm.name,
        instance=vm.instance,
        reports=folder / REPORTS,
        console=folder / CONSOLE,
        where=_where(domains, vm),
        error=UnreachableError,
        hint=f"builder vm console {vm.name}",
    )
    wait = Wait(within, stop=stop, require_running=lambda: _require_running(vms, domains, vm))
    with log_in(guest, ssh.load_key(_private(vm)), wait) as login:
        with replacing(folder / KNOWN_HOSTS) as file:
            file.write(f"{vm.host_alias} {login.session.host_key}\n".encode())
        if isinstance(guest.where, AddressLookup) and login.endpoint.host != vm.seen:
            with changing(vms):
                save(vms, find(vms, vm.name).model_copy(update={"seen": login.endpoint.host}))
        yield login.session


def ssh_options(vms: Path, vm: Vm) -> dict[str, str]:
    """What ssh(1) has to know to reach the clone and to trust it, by option name.

    Raises:
        UnreachableError: its address is not known.
    """
    where = place(vm)
    if where is None:
        raise UnreachableError(
            f"the address of {vm.name} is not known",
            "a network handed it out, and builder has not asked yet",
            f"builder vm ssh {vm.name} finds it; so does --wait",
        )
    options = {
        "HostName": where[0],
        "Port": str(where[1]),
        "User": "root",
        "HostKeyAlias": vm.host_alias,
        "UserKnownHostsFile": str(vms / vm.name / KNOWN_HOSTS),
        "StrictHostKeyChecking": "yes",
    }
    return options | ({"IdentityFile": vm.key, "IdentitiesOnly": "yes"} if vm.key else {})


def _private(vm: Vm) -> Path:
    if vm.key is None:
        raise RecipeError(
            f"the private key that {vm.name} accepts is not known",
            hint="give the private key, or NAME.pub with NAME beside it, to --ssh-key",
        )
    return Path(vm.key)


def _require_running(vms: Path, domains: Domains, vm: Vm) -> None:
    state = state_of(vm, domains.look(vm.name))
    if state != "running":
        details = [part for part in (last_lines(vms / vm.name / CONSOLE), domains.last_words(vm.name)) if part]
        raise UnreachableError(f"{vm.name} is {state}", "\n".join(details), f"builder vm start {vm.name}")


def _where(domains: Domains, vm: Vm) -> Endpoint | AddressLookup:
    """Where its SSH answers now: an address that DHCP gave may be another one than last time."""
    known = place(vm)
    if known is not None and (vm.network == "user" or vm.address):
        return Endpoint(*known)
    kind, _, name = vm.network.partition(":")
    return AddressLookup(vm.mac, name if kind == "bridge" else None, lambda: domains.address(vm.name))
