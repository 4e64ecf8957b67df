"""The one rule: a clone is up when root is in, over SSH, with the host key that the clone itself told on ttyS1."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from builder.clones.lifecycle import place, state_of
from builder.clones.record import CONSOLE, KNOWN_HOSTS, REPORTS, Vm, changing, find, save
from builder.errors import BuilderError, Cause, RecipeError, UnreachableError
from builder.guest import address, ssh
from builder.system import host_facts, retry
from builder.system.atomic_file import replacing
from builder.vm.domains import Domains

# Limits are written for KVM; a guest whose every instruction is translated gets this much more.
TCG_FACTOR = 4.0
ASK_STATE_EVERY = 2.0  # seconds
_HOSTKEY = re.compile(r"^BUILDER HOSTKEY (SHA256:\S+) (\S+)\s*$", re.M)
_WARNING = re.compile(r"^BUILDER WARNING (.*?)\s*$", re.M)


def limit(boot: float, vms: list[Vm]) -> float:
    """Seconds until root must be in: emulated machines that come up together share the host's processors."""
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
    """Log in as root; the host key is written to the clone's known_hosts.

    Args:
        stop: asked again and again; true gives up.

    Raises:
        UnreachableError: it does not come up in time, is off, or shows another host key.
        RecipeError: its private key is not known.
    """
    key = ssh.load_key(_private(vm))
    deadline = time.monotonic() + within
    prints = _fingerprints(vms, domains, vm, within, stop)
    host, port = _place(vms, domains, vm, deadline - time.monotonic(), stop)
    left = max(1.0, deadline - time.monotonic())
    with ssh.connect(port, key, prints, within=left, host=host, stop=stop) as opened:
        line = f"{vm.host_alias} {opened.host_key}\n".encode()
        with replacing(vms / vm.name / KNOWN_HOSTS) as file:
            file.write(line)
        yield opened


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


def _fingerprints(vms: Path, domains: Domains, vm: Vm, within: float, stop: Callable[[], bool]) -> list[str]:
    """Those that the clone told with this start, once it says that it took its identity."""
    path = vms / vm.name / REPORTS
    ready = re.compile(rf"^BUILDER READY {re.escape(vm.instance)}\s*$", re.M)
    asked = 0.0

    def told() -> str | None:
        nonlocal asked
        if stop():
            raise UnreachableError(f"waiting for {vm.name} was given up")
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        if ready.search(text):
            return text
        if time.monotonic() - asked > ASK_STATE_EVERY:
            asked = time.monotonic()
            state = state_of(vm, domains.look(vm.name))
            if state != "running":
                details = [part for part in (_tail(vms / vm.name), domains.last_words(vm.name)) if part]
                raise UnreachableError(f"{vm.name} is {state}", "\n".join(details), f"builder vm start {vm.name}")
        return None

    text = retry.until(told, within=max(0.0, within), every=0.1)
    if text is None:
        raise UnreachableError(
            f"{vm.name} did not take its identity within {within:.0f} s",
            _tail(vms / vm.name),
            f"builder vm console {vm.name}",
            cause=Cause.NO_IDENTITY,
        )
    prints = [found for found, _ in _HOSTKEY.findall(text)]
    if not prints:
        warned = "\n".join(_WARNING.findall(text))
        raise UnreachableError(
            f"{vm.name} told no SSH host key on ttyS1",
            warned,
            f"builder vm console {vm.name}",
            cause=Cause.NO_IDENTITY,
        )
    return prints


def _place(vms: Path, domains: Domains, vm: Vm, within: float, stop: Callable[[], bool]) -> tuple[str, int]:
    """Where its SSH answers now: an address that DHCP gave may be another one than last time."""
    where = place(vm)
    if where is not None and (vm.network == "user" or vm.address):
        return where
    kind, _, name = vm.network.partition(":")
    bridge = name if kind == "bridge" else None
    reports = vms / vm.name / REPORTS
    found = address.find(vm.mac, reports, bridge, lambda: domains.address(vm.name), within=max(0.0, within), stop=stop)
    if found is None:
        raise UnreachableError(
            f"the address of {vm.name} is not known",
            f"asked for: a lease, the guest agent, ARP for {vm.mac}, its own line on ttyS1",
            "does a DHCP server answer on this network? clones can be given an --address",
            cause=Cause.NO_DHCP,
        )
    if found != vm.seen:
        with changing(vms):
            save(vms, find(vms, vm.name).model_copy(update={"seen": found}))
    return found, 22


def _tail(folder: Path) -> str:
    """The last lines of the console."""
    try:
        with (folder / CONSOLE).open("rb") as file:
            file.seek(max(0, (folder / CONSOLE).stat().st_size - 4096))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-5:])
