"""Examine a test VM through console and SSH only: root's login, its health, and what is installed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from builder.errors import Cause, VerifyError
from builder.guest import console, ssh
from builder.guest.login import Login
from builder.guest.ssh import GuestSession
from builder.stage import Inputs, Job
from builder.stages.test_vm import TestVm, ssh_session
from builder.system import retry
from builder.vm.machine_spec import UserNet

# Everything that is compared between the copies or recorded of them, one `name=value` a line. What is enabled is read
# from its links: `systemctl list-unit-files` on two emulated copies takes longer than D-Bus waits.
_FACTS = r"""
echo "machine_id=$(cat /etc/machine-id)"
echo "hostname=$(cat /proc/sys/kernel/hostname)"
echo "mac=$(cat /sys/class/net/eth0/address)"
echo "kernel=$(uname -r)"
echo "cmdline=$(cat /proc/cmdline)"
echo "release=$(head -n 1 /etc/centos-release /etc/redhat-release 2>/dev/null | grep -v '^==>' | head -n 1)"
echo "os=$(. /etc/os-release; echo "$ID-$VERSION_ID")"
echo "uid=$(id -u)"
rpm -qa --qf 'package=%{NAME} %{VERSION}-%{RELEASE}\n' 2>/dev/null | sort
find /etc/systemd/system -type l \( -path '*.wants/*' -o -path '*.requires/*' \) | sed 's,.*/,service=,' | sort -u
awk -F: '{print "user=" $1 " " $3}' /etc/passwd | sort
ss -lntu 2>/dev/null | awk '$1 ~ /^(tcp|udp)/ {print "port=" $1 " " $5}' | sort -u
find / -xdev -type f -perm -4000 2>/dev/null | sed 's/^/suid=/' | sort
"""
_RANDOM = "head -c 64 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'"
# Facts of which there are many, by the word that reports them.
_LISTS = {"package": "packages", "service": "services", "user": "users", "port": "ports", "suid": "suid"}
# man os-release: what ID and VERSION_ID are made of.
_OS = re.compile(r"[a-z0-9._]{1,64}-[a-z0-9._-]{1,64}")
_UNIT = re.compile(r"\S+\.(?:service|socket|mount|target|timer|path|swap|device|automount|slice|scope)\b")


@dataclass(frozen=True)
class GuestFacts:
    """Observations of one test VM.

    Args:
        host_keys: fingerprints that it reported on ttyS1.
        boot_seconds: from start to the first login over SSH.
        os: `ID-VERSION_ID` of its /etc/os-release; empty where that is none.
        packages: `name version-release`, sorted.
        services: units that are enabled.
        users: `name uid`.
        ports: `tcp 0.0.0.0:22`: what listens.
        suid: files that run as their owner.
        address: where SSH answered; empty with user-mode networking, which gives every copy the same.
        random_bytes: 64 of /dev/urandom as hex, read first of all after its identity was in place; not recorded.
    """

    role: str
    machine_id: str
    hostname: str
    mac: str
    kernel: str
    cmdline: str
    release: str
    os: str
    host_keys: tuple[str, ...]
    boot_seconds: float
    packages: tuple[str, ...]
    services: tuple[str, ...]
    users: tuple[str, ...]
    ports: tuple[str, ...]
    suid: tuple[str, ...]
    checks: tuple[str, ...]
    address: str
    random_bytes: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {name: value for name, value in asdict(self).items() if name != "random_bytes"}


Check = tuple[str, str]


def examine(
    job: Job[Inputs], vm: TestVm, checks: tuple[Check, ...], inspect: Callable[[GuestSession], None] | None = None
) -> GuestFacts:
    """Log in over SSH and on the console, run the checks, and read the facts.

    Args:
        checks: name and command of each.
        inspect: is called last, with the login over SSH.

    Raises:
        VerifyError: what failed, with the copy's name.
    """
    with ssh_session(job, vm, VerifyError) as login:
        boot_seconds = time.monotonic() - vm.started
        random = login.session.run(_RANDOM).out.strip()
        job.progress.note(f"{vm.role}: root is in over SSH after {boot_seconds:.0f} s")
        with console.log_in(vm.machine.console, job.secrets.root_password, within=vm.left) as shell:
            answer = shell.run("id -u")
        if answer.text.strip() != "0":
            raise VerifyError(f"{vm.role}: the console login is not root's", answer.text)
        job.progress.note(f"{vm.role}: root is in on the console")
        _require_no_failed_unit(vm, login.session)
        for name, command in checks:
            reply = login.session.run(command)
            if reply.status != 0:
                raise VerifyError(
                    f"{vm.role}: check {name} failed (exit status {reply.status})",
                    f"{command}\n{(reply.out + reply.err).strip()}",
                    cause=Cause.CHECK_FAILED,
                )
        facts = replace(_facts(vm, login, round(boot_seconds, 1), checks), random_bytes=random)
        if inspect is not None:
            inspect(login.session)
        return facts


def _facts(vm: TestVm, login: Login, boot_seconds: float, checks: tuple[Check, ...]) -> GuestFacts:
    values, lists = _sorted_out(login.session.run(_FACTS).out)
    return GuestFacts(
        role=vm.role,
        machine_id=values.get("machine_id", ""),
        hostname=values.get("hostname", ""),
        mac=values.get("mac", ""),
        kernel=values.get("kernel", ""),
        cmdline=values.get("cmdline", ""),
        release=values.get("release", ""),
        os=values.get("os", "") if _OS.fullmatch(values.get("os", "")) else "",
        host_keys=login.host_keys,
        boot_seconds=boot_seconds,
        random_bytes="",
        address="" if isinstance(vm.machine.spec.network, UserNet) else login.endpoint.host,
        **lists,
        checks=tuple(name for name, _ in checks),
    )


def _sorted_out(facts: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Facts of which there is one, and those of which there are many, by name."""
    values: dict[str, str] = {}
    lists: dict[str, list[str]] = {name: [] for name in _LISTS.values()}
    for line in facts.splitlines():
        word, _, value = line.partition("=")
        if word in _LISTS:
            lists[_LISTS[word]].append(value)
        else:
            values[word] = value
    return values, {name: tuple(found) for name, found in lists.items()}


def _require_no_failed_unit(vm: TestVm, session: ssh.GuestSession) -> None:
    """Wait until the system has come up whole, then ask which units failed."""

    def settled() -> str | None:
        if vm.stop.is_set():
            return "stopped"
        state = session.run("systemctl is-system-running").out.strip()
        return state if state not in ("starting", "initializing", "") else None

    state = retry.until(settled, within=vm.limit, every=0.5)
    if state is None:
        jobs = session.run("systemctl list-jobs --no-pager").out.strip()
        raise VerifyError(f"{vm.role}: the system never finished booting", jobs, cause=Cause.NOT_BOOTED)
    listed = session.run("systemctl list-units --failed --no-legend --plain --no-pager").out
    # Once a line: a unit without a description has its name there again.
    failed = [found[0] for line in listed.splitlines() if (found := _UNIT.search(line))]
    if failed:
        names = " ".join(failed)
        log = session.run(f"systemctl status --no-pager --lines=5 {names}").out.strip()
        brief = f"{vm.role}: failed unit{'s' if len(failed) > 1 else ''}: {', '.join(failed)}"
        raise VerifyError(brief, log, cause=Cause.FAILED_UNIT)
