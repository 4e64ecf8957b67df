"""The one rule: looking at libvirt starts no daemon and waits at most a second; one that hangs is a finding."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from builder.errors import BuilderError, HostError
from builder.host import distro as host_system
from builder.host import firmware
from builder.host.distro import System, install_line
from builder.host.finding import Row
from builder.system import packages, process
from builder.vm import daemon, networks
from builder.vm.networks import Inventory

PATIENCE = 1.0  # seconds for libvirt's answer
NEEDED = ("qemu-system-x86_64", "qemu-img", "mcopy", "fsck.fat", "openssl", "gpg", "setpriv")
DAEMONS = ("libvirtd", "virtqemud")


def rows(system: System, uri: str) -> Iterator[Row]:
    """Programs, QEMU, firmware, the daemon, pools, networks."""
    missing = [name for name in NEEDED if not host_system.present(name)]
    if missing:
        yield Row("programs", "fail", missing_text(system, missing), "a build runs them", install_line(system, missing))
    else:
        yield Row("programs", "ok", "all found")
    if "qemu-system-x86_64" not in missing:
        yield _qemu()
    yield _firmware(system)
    daemon_program = next((name for name in DAEMONS if host_system.program(name)), None)
    if daemon_program is None:
        yield Row("libvirt", "fail", "is not installed", "it runs the machines", install_line(system, ["libvirtd"]))
        return
    yield from _daemon(uri, daemon_program, system)


def ask(uri: str) -> Inventory | BuilderError | None:
    """What libvirt has; the fault when it refuses; None when it has not answered in time.

    It is asked in a thread of its own, that dies with the process: a daemon that hangs must not hang the check.
    """
    answers: queue.Queue[Inventory | BuilderError] = queue.Queue()

    def look() -> None:
        try:
            answers.put(networks.inventory(uri))
        except BuilderError as fault:
            answers.put(fault)
        except Exception as fault:
            answers.put(HostError(f"libvirt does not answer at {uri}", output=str(fault)))

    threading.Thread(target=look, name="ask libvirt", daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return None


def runs(uri: str) -> bool:
    """A daemon accepts connections for this address."""
    folder = daemon.session_directory() if uri.endswith("/session") else daemon.SYSTEM
    return any(daemon.answers(folder / name) for name in ("libvirt-sock", "virtqemud-sock"))


def missing_text(system: System, missing: list[str]) -> str:
    """Name missing programs, each with the package that brings it here."""
    named = (f"{name} ({packages.naming([name], system.manager)[0]})" for name in missing)
    return f"missing: {', '.join(named)}"


def _qemu() -> Row:
    program = host_system.program("qemu-system-x86_64") or "qemu-system-x86_64"
    try:
        said = process.run([program, "--version"], timeout=PATIENCE).stdout
    except BuilderError as fault:
        return Row("qemu", "warn", fault.brief, "a cold disk or a busy host; if it stays so, QEMU is broken")
    return Row("qemu", "ok", said.partition("\n")[0].removeprefix("QEMU emulator version "))


def _firmware(system: System) -> Row:
    found = firmware.uefi(firmware.directories())
    usable = next((each for each in found if each.usable), None)
    if usable:
        return Row("firmware", "ok", f"BIOS, UEFI ({usable.file})")
    why = "recipes with firmware: uefi cannot run"
    if found:
        return Row("firmware", "warn", f"BIOS; UEFI with Secure Boot only ({found[0].file})", why)
    return Row("firmware", "warn", "BIOS only", why, install_line(system, ["uefi"]))


def _daemon(uri: str, program: str, system: System) -> Iterator[Row]:
    if not runs(uri):
        if system.systemd and uri.endswith("/system"):
            why = "builder starts it when it needs it; at boot it is not there"
            yield Row("libvirt", "warn", f"{program} is installed, its socket is not up", why, "builder host prepare")
        else:
            yield Row("libvirt", "ok", f"{program}, started when it is needed")
        return
    answer = ask(uri)
    if answer is None:
        why = "it may have been started just now; if it stays so, it hangs, and no machine can be started"
        yield Row("libvirt", "warn", f"no answer at {uri} within {PATIENCE:g} s", why, "virsh list")
    elif isinstance(answer, BuilderError):
        yield Row("libvirt", "fail", f"refuses {uri}", answer.details or answer.brief, "usermod -aG libvirt $USER")
    else:
        yield Row("libvirt", "ok", f"{answer.libvirt} at {uri}")
        yield _pools(answer)
        yield _networks(answer, uri)


def _pools(answer: Inventory) -> Row:
    if not answer.pools:
        return Row("pools", "info", "none", "only virt-manager and virsh need them", "builder host prepare")
    stopped = [pool.name for pool in answer.pools if not pool.active]
    names = ", ".join(pool.name + (" (stopped)" if pool.name in stopped else "") for pool in answer.pools)
    return Row("pools", "info" if stopped else "ok", names, "", f"virsh pool-start {stopped[0]}" if stopped else "")


def _networks(answer: Inventory, uri: str) -> Row:
    why = "network.mode: nat needs one; the mode `user` needs none"
    if uri.endswith("/session"):
        return Row("networks", "info", "user mode only", "NAT and bridge need qemu:///system")
    if not answer.networks:
        return Row("networks", "info", "none", why, "builder host prepare --nat 192.168.150.0/24")
    stopped = [net.name for net in answer.networks if not net.active]
    names = ", ".join(f"{net.name} ({'stopped' if net.name in stopped else net.bridge})" for net in answer.networks)
    if len(stopped) < len(answer.networks):
        return Row("networks", "ok", names)
    if not host_system.program("dnsmasq"):
        return Row("networks", "info", names, f"{why}; it runs dnsmasq", install_line(host_system.find(), ["dnsmasq"]))
    return Row("networks", "info", names, why, f"virsh net-start {stopped[0]}")
