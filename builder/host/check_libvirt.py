"""Checks of libvirt that start no daemon and wait at most a second; a daemon that hangs is a finding.

They wait longer only for a daemon that has answered and may start QEMU for each query.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from builder.errors import BuilderError, HostError
from builder.host import distro as host_system
from builder.host import firmware
from builder.host.distro import System, install_line
from builder.host.finding import HostFinding
from builder.system import host_facts, packages, process
from builder.system.host_facts import KVM, KvmAccess
from builder.vm import capabilities, daemon, networks
from builder.vm.capabilities import Capabilities
from builder.vm.networks import Inventory
from builder.vm.uri import SYSTEM_DIRECTORY, kind_of, session_directory

PATIENCE = 1.0  # seconds for libvirt's answer
PROBING = 15.0  # seconds for two look-ups that start QEMU
NEEDED = ("qemu-system-x86_64", "qemu-img", "mcopy", "fsck.fat", "openssl", "gpg", "setpriv")
DAEMONS = ("libvirtd", "virtqemud")


def rows(system: System, uri: str) -> Iterator[HostFinding]:
    """Programs, QEMU, firmware, the daemon, pools, networks."""
    missing = [name for name in NEEDED if not host_system.present(name)]
    if missing:
        yield HostFinding(
            "programs", "fail", missing_text(system, missing), "a build runs them", install_line(system, missing)
        )
    else:
        yield HostFinding("programs", "ok", "all found")
    if "qemu-system-x86_64" not in missing:
        yield _qemu()
    yield _firmware(system)
    daemon_program = next((name for name in DAEMONS if host_system.program(name)), None)
    if daemon_program is None:
        yield HostFinding(
            "libvirt", "fail", "is not installed", "it runs the machines", install_line(system, ["libvirtd"])
        )
        return
    yield from _socket_paths(uri)
    yield from _daemon(uri, daemon_program, system)


Answer = TypeVar("Answer")


def ask(uri: str) -> Inventory | BuilderError | None:
    """Ask libvirt for its facts: the error when it refuses, None when it has not answered in time."""

    def look() -> Inventory:
        return networks.inventory(uri)

    return _within(PATIENCE, look, uri)


def _within(seconds: float, question: Callable[[], Answer], uri: str) -> Answer | BuilderError | None:
    """The answer to a question to libvirt; the fault when it refuses; None when it has not answered in time.

    It is asked in a thread of its own, that dies with the process: a daemon that hangs must not hang the check.
    """
    answers: queue.Queue[Answer | BuilderError] = queue.Queue()

    def look() -> None:
        try:
            answers.put(question())
        except BuilderError as fault:
            answers.put(fault)
        except Exception as fault:
            answers.put(HostError(f"libvirt does not answer at {uri}", output=str(fault)))

    threading.Thread(target=look, name="ask libvirt", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return None


def runs(uri: str) -> bool:
    """A daemon accepts connections for this address."""
    folder = session_directory() if kind_of(uri) == "session" else SYSTEM_DIRECTORY
    return any(daemon.answers(folder / name) for name in ("libvirt-sock", "virtqemud-sock"))


def missing_text(system: System, missing: list[str]) -> str:
    """Name missing programs, each with the package that brings it here."""
    named = (f"{name} ({packages.naming([name], system.manager)[0]})" for name in missing)
    return f"missing: {', '.join(named)}"


def _qemu() -> HostFinding:
    program = host_system.program("qemu-system-x86_64") or "qemu-system-x86_64"
    try:
        output = process.run([program, "--version"], timeout=PATIENCE).stdout
    except BuilderError as fault:
        return HostFinding("qemu", "warn", fault.brief, "a cold disk or a busy host; if it stays so, QEMU is broken")
    return HostFinding("qemu", "ok", output.partition("\n")[0].removeprefix("QEMU emulator version "))


def _firmware(system: System) -> HostFinding:
    found = firmware.uefi(firmware.directories())
    usable = next((each for each in found if each.usable), None)
    if usable:
        return HostFinding("firmware", "ok", f"BIOS, UEFI ({usable.file})")
    why = "recipes with firmware: uefi cannot run"
    if found:
        return HostFinding("firmware", "warn", f"BIOS; UEFI with Secure Boot only ({found[0].file})", why)
    return HostFinding("firmware", "warn", "BIOS only", why, install_line(system, ["uefi"]))


def _socket_paths(uri: str) -> Iterator[HostFinding]:
    """Return whether the sockets of an ordinary user's libvirt have paths that are short enough."""
    if kind_of(uri) != "session":
        return
    if long := daemon.long_socket_paths(uri):
        found, why = "; ".join(map(str, long)), "libvirt cannot start a machine"
        yield HostFinding("socket paths", "fail", found, why, daemon.SHORTEN)
        return
    yield HostFinding("socket paths", "ok", "short enough")


def _daemon(uri: str, program: str, system: System) -> Iterator[HostFinding]:
    if not runs(uri):
        if system.systemd and kind_of(uri) == "system":
            why = "builder starts it when it needs it; at boot it is not there"
            yield HostFinding(
                "libvirt", "warn", f"{program} is installed, its socket is not up", why, "builder host prepare"
            )
        else:
            yield HostFinding("libvirt", "ok", f"{program}, started when it is needed")
        yield from _kvm(uri, running=False)
        return
    answer = ask(uri)
    if answer is None:
        why = "it may have been started just now; if it stays so, it hangs, and no machine can be started"
        yield HostFinding("libvirt", "warn", f"no answer at {uri} within {PATIENCE:g} s", why, "virsh list")
    elif isinstance(answer, BuilderError):
        yield HostFinding(
            "libvirt", "fail", f"refuses {uri}", answer.details or answer.brief, "usermod -aG libvirt $USER"
        )
    else:
        yield HostFinding("libvirt", "ok", f"{answer.libvirt} at {uri}")
        yield _pools(answer)
        yield _networks(answer, uri)
        yield from _kvm(uri, running=True)


def _kvm(uri: str, *, running: bool) -> Iterator[HostFinding]:
    """Return whether QEMU's user can use /dev/kvm, and the cost where it cannot; nothing where only root could see it.

    Args:
        running: a daemon answers.
    """
    user = host_facts.qemu_user() if kind_of(uri) == "system" else None
    access = host_facts.kvm_access(*user) if user else None
    if user is None or access is None:
        return
    name = host_facts.user_name(user[0])
    if access == "opens":
        yield HostFinding("kvm access", "ok", f"QEMU's user {name} opens {KVM}")
        return
    found = f"QEMU's user {name} {'may not' if access == 'denied' else 'cannot'} open {KVM}"
    fix = "builder host prepare" if access == "denied" else ""
    cause = "" if fix else "; the device has no driver, or this container may not use it"
    seconds = _probing_seconds(uri, access) if running else None
    if seconds is None:
        yield HostFinding(
            "kvm access", "info", found, f"machines of {uri} run as this user: they are emulated{cause}", fix
        )
        return
    why = f"libvirt starts QEMU for each look-up, {seconds:.1f} s each time, and several times before a machine starts"
    yield HostFinding("kvm access", "warn", found, f"{why}{cause}", fix)


def _probing_seconds(uri: str, access: KvmAccess) -> float | None:
    """Seconds of a look-up where libvirt starts QEMU for each of them; None where it does not."""

    def look() -> tuple[Capabilities, float]:
        return networks.look_up(uri)

    answer = _within(PROBING, look, uri)
    if answer is None:
        return PROBING
    if isinstance(answer, BuilderError):
        return None
    found, seconds = answer
    return seconds if capabilities.probes_again(found, access, seconds) else None


def _pools(answer: Inventory) -> HostFinding:
    if not answer.pools:
        return HostFinding("pools", "info", "none", "only virt-manager and virsh need them", "builder host prepare")
    stopped = [pool.name for pool in answer.pools if not pool.active]
    names = ", ".join(pool.name + (" (stopped)" if pool.name in stopped else "") for pool in answer.pools)
    return HostFinding(
        "pools", "info" if stopped else "ok", names, "", f"virsh pool-start {stopped[0]}" if stopped else ""
    )


def _networks(answer: Inventory, uri: str) -> HostFinding:
    why = "network.mode: nat needs one; the mode `user` needs none"
    if kind_of(uri) == "session":
        return HostFinding("networks", "info", "user mode only", "NAT and bridge need qemu:///system")
    if not answer.networks:
        return HostFinding("networks", "info", "none", why, "builder host prepare --nat 192.168.150.0/24")
    stopped = [net.name for net in answer.networks if not net.active]
    names = ", ".join(f"{net.name} ({'stopped' if net.name in stopped else net.bridge})" for net in answer.networks)
    if len(stopped) < len(answer.networks):
        return HostFinding("networks", "ok", names)
    if not host_system.program("dnsmasq"):
        return HostFinding(
            "networks", "info", names, f"{why}; it runs dnsmasq", install_line(host_system.find(), ["dnsmasq"])
        )
    return HostFinding("networks", "info", names, why, f"virsh net-start {stopped[0]}")
