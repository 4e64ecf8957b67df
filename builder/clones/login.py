"""Log in to a clone: wait until root can, open a session over SSH, hand over to ssh(1).

Invariant: the clone's known_hosts has only the host key whose fingerprint the clone reported on ttyS1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from builder.clones import proof
from builder.clones.lifecycle import state_of
from builder.clones.record import CONSOLE, KNOWN_HOSTS, REPORTS, Vm
from builder.clones.workspace import Workspace
from builder.errors import BuilderError, RecipeError, UnreachableError
from builder.guest import ssh, ssh_words
from builder.guest.login import AddressLookup, Endpoint, Guest, Wait, log_in
from builder.settings import TCG_FACTOR
from builder.system import host_facts, process
from builder.system.atomic_file import replacing
from builder.system.tail import last_lines
from builder.vm.domains import Domains


def limit(boot: float, vms: Sequence[Vm]) -> float:
    """Return the seconds until root must be in: emulated machines that start together share the host's processors."""
    if not any(vm.accel == "tcg" for vm in vms):
        return boot
    return boot * TCG_FACTOR * max(1.0, len(vms) / host_facts.cpu_count())


def wait_all(
    workspace: Workspace, vms: Sequence[Vm], within: float, report: Callable[[str], None]
) -> dict[str, BuilderError]:
    """Wait, side by side, until root can log in on all; return the errors of those that fail, by name.

    Each card of each is looked at (`builder.clones.proof`).

    Args:
        within: seconds for all of them.
        report: called with lines of progress for people.

    Raises:
        RecipeError: the private key of one is not known.
    """
    for vm in vms:
        _private(vm)
        # Opened here: the threads share the connections.
        workspace.libvirt(vm.uri)
    start = time.monotonic()
    given_up = threading.Event()

    def wait(vm: Vm) -> BuilderError | None:
        try:
            with session(workspace, vm, within, stop=given_up.is_set) as opened:
                proof.require_cards(opened, vm, stop=given_up.is_set)
                report(f"{vm.name}: root is in after {time.monotonic() - start:.0f} s")
        except BuilderError as error:
            if not given_up.is_set():
                report(f"{vm.name}: {error.brief}")
            return error
        return None

    with ThreadPoolExecutor(max(1, len(vms)), thread_name_prefix="wait") as pool:
        try:
            errors = list(pool.map(wait, vms))
        finally:
            # After an interrupt the results are not wanted any more, but the threads have to end first.
            given_up.set()
    return {vm.name: error for vm, error in zip(vms, errors, strict=True) if error is not None}


@contextmanager
def session(
    workspace: Workspace, vm: Vm, within: float, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[ssh.GuestSession]:
    """Log in as root; write the host key to the clone's known_hosts, and an address that was found to its record.

    Args:
        within: seconds until root must be in.
        stop: asked repeatedly; true gives up.

    Raises:
        UnreachableError: it does not come up in time, is off, or shows another host key.
        RecipeError: its private key is not known.
    """
    folder = workspace.path(vm.name)
    domains = workspace.libvirt(vm.uri)
    guest = Guest(
        name=vm.name,
        instance=vm.instance,
        reports=folder / REPORTS,
        console=folder / CONSOLE,
        where=_where(domains, vm),
        error=UnreachableError,
        hint=f"builder vm console {vm.name}",
    )
    wait = Wait(within, stop=stop, require_running=lambda: _require_running(folder, domains, vm))
    with log_in(guest, ssh.load_key(_private(vm)), wait) as login:
        with replacing(folder / KNOWN_HOSTS) as file:
            file.write(f"{vm.host_alias} {login.session.host_key}\n".encode())
        if isinstance(guest.where, AddressLookup) and login.endpoint.host != vm.cards[vm.way_in].seen:
            with workspace.lock():
                workspace.save(workspace.find(vm.name).with_card(vm.way_in, seen=login.endpoint.host))
        yield login.session


def ssh_command(workspace: Workspace, name: str, within: float, command: Sequence[str]) -> list[str]:
    """Log in once, which proves the host key, and return the ssh(1) command that logs in again.

    ssh(1) knows agents, forwards and terminals.

    Args:
        within: seconds until root must be in.
        command: runs in the guest; empty for a shell.

    Raises:
        UnreachableError, RecipeError: see `session`.
    """
    with session(workspace, workspace.find(name), within):
        options = ssh_options(workspace, workspace.find(name))
    return [process.find("ssh"), *ssh_words.words(options), name, *command]


def ssh_options(workspace: Workspace, vm: Vm) -> dict[str, str]:
    """Return the options with which ssh(1) reaches the clone and trusts it, by name.

    Raises:
        UnreachableError: its address is not known.
    """
    address = vm.ssh_address
    if address is None:
        raise UnreachableError(
            f"the address of {vm.name} is not known",
            "it comes from a network, and builder has not asked for it yet",
            f"builder vm ssh {vm.name} finds it; so does --wait",
        )
    options = {
        "HostName": address[0],
        "Port": str(address[1]),
        "User": "root",
        "HostKeyAlias": vm.host_alias,
        "UserKnownHostsFile": str(workspace.path(vm.name) / KNOWN_HOSTS),
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


def _require_running(folder: Path, domains: Domains, vm: Vm) -> None:
    state = state_of(vm, domains.look(vm.name))
    if state != "running":
        details = [part for part in (last_lines(folder / CONSOLE), domains.last_words(vm.name)) if part]
        raise UnreachableError(f"{vm.name} is {state}", "\n".join(details), f"builder vm start {vm.name}")


def _where(domains: Domains, vm: Vm) -> Endpoint | AddressLookup:
    """Return where its sshd is reached now: an address that DHCP gave may be another one than last time."""
    known, card = vm.ssh_address, vm.cards[vm.way_in]
    if known is not None and (card.network == "user" or not card.dhcp):
        return Endpoint(*known)
    kind, _, name = card.network.partition(":")
    return AddressLookup(card.mac, name if kind == "bridge" else None, lambda: domains.address(vm.name, card.mac))
