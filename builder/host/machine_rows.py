"""The one rule: what CPU, memory, clock and kernel offer is read from /proc and /sys, and nothing is tried out."""

from __future__ import annotations

import grp
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from builder.host.row import Row, read
from builder.host.system import System

GIB = 1 << 30
KVM = Path("/dev/kvm")
# A clock before this is not set: release of CentOS 7.9 media, whose signatures would look as if made later.
OLDEST = 1_605_000_000


def rows(system: System) -> Iterator[Row]:
    """Distribution, CPU, nesting, KVM, modules, IOMMU, memory, clock."""
    known = system.manager is not None
    yield Row(
        "system",
        "ok" if known else "warn",
        system.name + ("" if system.systemd else ", no systemd"),
        "" if known else "packages can be installed by apt and dnf only; install them by hand here",
    )
    flags = _flags()
    yield _cpu(flags)
    if flags:
        yield _nested()
    yield _kvm(flags)
    yield _groups()
    yield from _modules(flags)
    yield _iommu()
    yield _memory()
    yield _clock(system)


def _flags() -> set[str]:
    """Which of vmx and svm the CPU shows."""
    found = re.search(r"^flags\s*:(.*)$", read("/proc/cpuinfo"), re.M)
    return {"vmx", "svm"} & set(found[1].split() if found else ())


def _cpu(flags: set[str]) -> Row:
    count = len(os.sched_getaffinity(0))
    plural = "" if count == 1 else "s"
    if flags:
        return Row("cpu", "ok", f"{count} CPU{plural}, {' '.join(sorted(flags))}")
    if not read("/proc/cpuinfo"):
        return Row("cpu", "warn", f"{count} CPU{plural}, /proc is not mounted", "vmx or svm cannot be seen without it")
    why = "guests are emulated (TCG), about ten times slower: switch virtualization on in the firmware, or nesting"
    return Row("cpu", "warn", f"{count} CPU{plural}, neither vmx nor svm", f"{why} in the hypervisor above")


def _nested() -> Row:
    value = read("/sys/module/kvm_intel/parameters/nested") or read("/sys/module/kvm_amd/parameters/nested")
    on = value.strip() in ("1", "Y")
    return Row("nested", "info", "on" if on else "off", "" if on else "guests cannot run KVM themselves")


def _kvm(flags: set[str]) -> Row:
    if not KVM.exists():
        mend = "modprobe kvm_intel || modprobe kvm_amd" if flags else ""
        return Row("/dev/kvm", "warn", "is not there", "guests are emulated (TCG)", mend)
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as fault:
        why = "guests are emulated (TCG) when the device does not open"
        return Row(
            "/dev/kvm", "warn", f"does not open: {fault.strerror}", why, "usermod -aG kvm $USER; then log in anew"
        )
    if not flags:
        return Row("/dev/kvm", "info", "opens, but is not trusted", "without vmx or svm guests hang in it: TCG is used")
    return Row("/dev/kvm", "ok", "opens")


def _groups() -> Row:
    if os.geteuid() == 0:
        return Row("groups", "ok", "root needs none")
    mine = set(os.getgroups())
    missing = []
    for name in ("kvm", "libvirt"):
        try:
            if grp.getgrnam(name).gr_gid not in mine:
                missing.append(name)
        except KeyError:
            continue
    if not missing:
        return Row("groups", "ok", "kvm, libvirt")
    why = "kvm opens /dev/kvm; libvirt opens qemu:///system (networks, bridges)"
    return Row("groups", "info", f"not in {' and '.join(missing)}", why, f"usermod -aG {','.join(missing)} $USER")


def _modules(flags: set[str]) -> Iterator[Row]:
    if not read("/proc/modules"):
        yield Row("modules", "info", "the kernel has none loaded, or /proc is not mounted", "all may be built in")
        return
    loaded = {line.split()[0] for line in read("/proc/modules").splitlines()}
    wanted = [name for flag, name in (("vmx", "kvm_intel"), ("svm", "kvm_amd")) if flag in flags]
    missing = [name for name in wanted if name not in loaded and not Path("/sys/module", name).is_dir()]
    if missing:
        yield Row("modules", "warn", f"{missing[0]} is not loaded", "KVM needs it", f"modprobe {missing[0]}")
    else:
        yield Row("modules", "ok", ", ".join(wanted) or "none is needed")


def _iommu() -> Row:
    try:
        groups = sum(1 for _ in Path("/sys/kernel/iommu_groups").iterdir())
    except OSError:
        groups = 0
    if groups:
        return Row("iommu", "ok", f"{groups} groups")
    return Row(
        "iommu", "info", "off", "only needed to hand a device of the host to a guest (intel_iommu=on, amd_iommu)"
    )


def _memory() -> Row:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", read("/proc/meminfo"), re.M))
    if "MemAvailable" not in found:
        return Row("memory", "warn", "unknown: /proc is not mounted", "a build needs 2 GiB, its proof twice that")
    available, total = int(found["MemAvailable"]) * 1024, int(found["MemTotal"]) * 1024
    text = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if available < GIB:
        return Row("memory", "fail", text, "no machine of 1 GiB can be started")
    if available < 4 * GIB:
        return Row("memory", "warn", text, "the proof runs two machines of 2 GiB together: recipe machine.memory")
    return Row("memory", "ok", text)


def _clock(system: System) -> Row:
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if time.time() < OLDEST:
        return Row("clock", "warn", f"{now} is long ago", "certificates and signatures look invalid", "date -s …")
    synchronised = Path("/run/systemd/timesync/synchronized").exists() or Path("/run/chrony/chronyd.sock").exists()
    if system.systemd and not synchronised:
        return Row("clock", "info", f"{now}, no time service seen", "it may drift", "timedatectl set-ntp true")
    return Row("clock", "ok", now)
