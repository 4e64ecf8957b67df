"""Checks of CPU, KVM, modules, IOMMU, memory and clock, read from /proc and /sys; nothing is tried out."""

from __future__ import annotations

import grp
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from builder.host.distro import System
from builder.host.finding import HostFinding, read

GIB = 1 << 30
KVM = Path("/dev/kvm")
# A clock before this is not set: release of CentOS 7.9 media, whose signatures would look as if made later.
OLDEST = 1_605_000_000


def rows(system: System) -> Iterator[HostFinding]:
    """Distribution, CPU, nesting, KVM, modules, IOMMU, memory, clock."""
    known = system.manager is not None
    yield HostFinding(
        "system",
        "ok" if known else "warn",
        system.name + ("" if system.systemd else ", no systemd"),
        "" if known else "packages can be installed by apt and dnf only; install them by hand here",
    )
    shown = _flags()
    flags = shown & {"vmx", "svm"}
    yield _cpu(flags)
    if shown:
        yield _nested(flags, "hypervisor" in shown)
    yield _kvm(flags)
    yield _groups()
    yield from _modules(flags)
    yield _iommu()
    yield _memory()
    yield _clock(system)


def _flags() -> set[str]:
    """Return the virtualization flags of the CPU."""
    found = re.search(r"^flags\s*:(.*)$", read("/proc/cpuinfo"), re.M)
    return set(found[1].split() if found else ())


def _cpu(flags: set[str]) -> HostFinding:
    count = len(os.sched_getaffinity(0))
    plural = "" if count == 1 else "s"
    if flags:
        return HostFinding("cpu", "ok", f"{count} CPU{plural}, {' '.join(sorted(flags))}")
    if not read("/proc/cpuinfo"):
        return HostFinding(
            "cpu", "warn", f"{count} CPU{plural}, /proc is not mounted", "vmx or svm cannot be seen without it"
        )
    why = "guests are emulated (TCG), about ten times slower: switch virtualization on in the firmware, or nesting"
    return HostFinding("cpu", "warn", f"{count} CPU{plural}, neither vmx nor svm", f"{why} in the hypervisor above")


def _nested(flags: set[str], inside: bool) -> HostFinding:
    """Return whether this host is a guest itself, and whether its own guests can be hosts.

    Args:
        inside: the CPU shows the flag `hypervisor`.
    """
    here = "this host is a virtual machine itself" if inside else "this host is a machine of its own"
    if not flags:
        why = "the hypervisor above lends it no vmx or svm: nesting is switched on there" if inside else ""
        return HostFinding("nested", "info" if inside else "ok", here, why)
    value = read("/sys/module/kvm_intel/parameters/nested") or read("/sys/module/kvm_amd/parameters/nested")
    on = value.strip() in ("1", "Y")
    why = "" if on else "guests cannot run KVM themselves; for that: kvm_intel nested=1 or kvm_amd nested=1"
    return HostFinding("nested", "ok" if on else "info", f"{here}; nesting is {'on' if on else 'off'}", why)


def _kvm(flags: set[str]) -> HostFinding:
    if not KVM.exists():
        fix = "modprobe kvm_intel || modprobe kvm_amd" if flags else ""
        return HostFinding("/dev/kvm", "warn", "is not there", "guests are emulated (TCG)", fix)
    if not flags:
        why = "without vmx or svm guests hang in it, even if it opens: TCG is used"
        return HostFinding("/dev/kvm", "info", "is there, but is not trusted", why)
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as fault:
        why = "guests are emulated (TCG) when the device does not open"
        return HostFinding(
            "/dev/kvm", "warn", f"does not open: {fault.strerror}", why, "usermod -aG kvm $USER; then log in anew"
        )
    return HostFinding("/dev/kvm", "ok", "opens")


def _groups() -> HostFinding:
    if os.geteuid() == 0:
        return HostFinding("groups", "ok", "root needs none")
    there = {one.gr_name: one.gr_gid for one in grp.getgrall() if one.gr_name in ("kvm", "libvirt")}
    if not there:
        why = "kvm opens /dev/kvm; libvirt opens qemu:///system. The packages of QEMU and libvirt make them"
        return HostFinding("groups", "info", "neither kvm nor libvirt exists yet", why, "sudo builder host prepare")
    missing = [name for name, number in sorted(there.items()) if number not in os.getgroups()]
    if not missing:
        return HostFinding("groups", "ok", ", ".join(sorted(there)))
    why = "kvm opens /dev/kvm; libvirt opens qemu:///system (networks, bridges)"
    return HostFinding(
        "groups", "info", f"not in {' and '.join(missing)}", why, f"usermod -aG {','.join(missing)} $USER"
    )


def _modules(flags: set[str]) -> Iterator[HostFinding]:
    """Drivers by what they bring, for they may be built into the kernel."""
    wanted = [name for flag, name in (("vmx", "kvm_intel"), ("svm", "kvm_amd")) if flag in flags]
    missing = [name for name in wanted if not Path("/sys/module", name).is_dir()]
    if missing:
        yield HostFinding("modules", "warn", f"{missing[0]} is not loaded", "KVM needs it", f"modprobe {missing[0]}")
    elif not Path("/dev/net/tun").exists():
        why = "guests on NAT networks and bridges get their cards from it; the mode `user` does not need it"
        yield HostFinding("modules", "info", "tun is not loaded", why, "modprobe tun")
    elif not Path("/dev/vhost-net").exists() and read("/proc/modules"):
        why = "it makes the network of guests on NAT networks and bridges faster"
        yield HostFinding("modules", "info", "vhost_net is not loaded", why, "modprobe vhost_net")
    else:
        yield HostFinding("modules", "ok", ", ".join([*wanted, "tun"]))


def _iommu() -> HostFinding:
    try:
        groups = sum(1 for _ in Path("/sys/kernel/iommu_groups").iterdir())
    except OSError:
        groups = 0
    if groups:
        return HostFinding("iommu", "ok", f"{groups} groups")
    return HostFinding(
        "iommu", "info", "off", "only needed to hand a device of the host to a guest (intel_iommu=on, amd_iommu)"
    )


def _memory() -> HostFinding:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", read("/proc/meminfo"), re.M))
    if "MemAvailable" not in found:
        return HostFinding(
            "memory", "warn", "unknown: /proc is not mounted", "a build needs 2 GiB, its proof twice that"
        )
    available, total = int(found["MemAvailable"]) * 1024, int(found["MemTotal"]) * 1024
    text = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if available < GIB:
        return HostFinding("memory", "fail", text, "no machine of 1 GiB can be started")
    if available < 4 * GIB:
        return HostFinding(
            "memory", "warn", text, "the proof runs two machines of 2 GiB together: recipe machine.memory"
        )
    return HostFinding("memory", "ok", text)


def _clock(system: System) -> HostFinding:
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if time.time() < OLDEST:
        return HostFinding(
            "clock", "warn", f"{now} is long ago", "certificates and signatures look invalid", "date -s …"
        )
    synchronised = Path("/run/systemd/timesync/synchronized").exists() or Path("/run/chrony/chronyd.sock").exists()
    if system.systemd and not synchronised:
        return HostFinding("clock", "info", f"{now}, no time service seen", "it may drift", "timedatectl set-ntp true")
    return HostFinding("clock", "ok", now)
