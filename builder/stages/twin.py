"""The one rule: a copy is examined through the two doors its users have, console and SSH, and no other."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from builder.adapters import console_login, disk, guest, guest_address, host_facts, libvirt_host, seed_iso, waiting
from builder.adapters.domain_xml import BridgeNet, Disk, Layer, LibvirtNet, MachineSpec, UserNet, render
from builder.adapters.follow import LogFollower
from builder.adapters.host_facts import Accel
from builder.adapters.hypervisor import Hypervisor
from builder.adapters.machine import Machine
from builder.errors import BuilderError, HostError, VerifyError
from builder.seed import Identity, files
from builder.stage import Job
from builder.stages import evidence
from builder.stages.machines import identity, stretched, tail
from builder.stages.verdict import judge, of_ending
from builder.stages.watching import flooded, read_texts

MIB = 1 << 20
DISK_SERIAL = "BUILDER-SYSTEM"
CONSOLE_END = 16384
_HOSTKEY = re.compile(r"^BUILDER HOSTKEY (SHA256:\S+) (\S+)\s*$", re.M)
# Everything that is compared between the copies or recorded of them, one `name=value` a line. What is enabled is read
# from its links: `systemctl list-unit-files` on two emulated copies takes longer than D-Bus waits.
_FACTS = r"""
echo "machine_id=$(cat /etc/machine-id)"
echo "hostname=$(cat /proc/sys/kernel/hostname)"
echo "mac=$(cat /sys/class/net/eth0/address)"
echo "kernel=$(uname -r)"
echo "cmdline=$(cat /proc/cmdline)"
echo "release=$(head -n 1 /etc/centos-release /etc/redhat-release 2>/dev/null | grep -v '^==>' | head -n 1)"
echo "uid=$(id -u)"
rpm -qa --qf 'package=%{NAME} %{VERSION}-%{RELEASE}\n' 2>/dev/null | sort
find /etc/systemd/system -type l \( -path '*.wants/*' -o -path '*.requires/*' \) | sed 's,.*/,service=,' | sort -u
awk -F: '{print "user=" $1 " " $3}' /etc/passwd | sort
ss -lntu 2>/dev/null | awk '$1 ~ /^(tcp|udp)/ {print "port=" $1 " " $5}' | sort -u
find / -xdev -type f -perm -4000 2>/dev/null | sed 's/^/suid=/' | sort
"""
# Facts of which there are many, by the word they are told with.
_LISTS = {"package": "packages", "service": "services", "user": "users", "port": "ports", "suid": "suid"}
_UNIT = re.compile(r"\S+\.(?:service|socket|mount|target|timer|path|swap|device|automount|slice|scope)\b")


@dataclass(frozen=True)
class Base:
    """What a copy lies over; `size` in bytes is what its guest sees, None for as much as there is below."""

    path: Path
    format: Literal["raw", "qcow2"] = "qcow2"
    size: int | None = None


@dataclass(frozen=True)
class Twin:
    """A copy that was started; `stop` tells whoever waits for it that it is being taken away."""

    role: str
    instance: str
    machine: Machine
    reports: Path
    console: Path
    key: Any
    limit: float
    started: float
    stop: threading.Event


@dataclass(frozen=True)
class TwinReport:
    """What a copy showed.

    Args:
        host_keys: fingerprints that it told on ttyS1.
        boot_seconds: from start to the first login over SSH.
        packages: `name version-release`, sorted.
        services: units that are enabled.
        users: `name uid`.
        ports: `tcp 0.0.0.0:22`: what listens.
        suid: files that run as their owner.
        address: where SSH answered; empty with user-mode networking, which gives every copy the same.
    """

    role: str
    machine_id: str
    hostname: str
    mac: str
    kernel: str
    cmdline: str
    release: str
    host_keys: tuple[str, ...]
    boot_seconds: float
    packages: tuple[str, ...]
    services: tuple[str, ...]
    users: tuple[str, ...]
    ports: tuple[str, ...]
    suid: tuple[str, ...]
    checks: tuple[str, ...]
    address: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def boot_twin(
    job: Job, host: Hypervisor, accel: Accel, role: str, base: Base, key: tuple[Any, str], machines: ExitStack
) -> Twin:
    """Start one copy: a throw-away overlay of the sealed file, and a seed of its own."""
    who = identity(job.run_id, role)
    given = job.inputs
    overlay = job.scratch / f"{role}.qcow2"
    disk.create(overlay, base.size, "qcow2", backing=(base.path, base.format))
    seed = job.scratch / f"{role}.iso"
    instance = f"{job.run_id}-{role}"
    seed_iso.write_iso(seed, seed_iso.IDENTITY_LABEL, files(Identity(instance, role, (key[1],))), mode=0o444)
    reports = job.scratch / f"{role}.ttyS1"
    told = job.evidence / f"{role}.ttyS1.log"
    console = job.evidence / f"{role}.console.log"
    screen = job.scratch / f"{role}.ttyS0"
    spec = MachineSpec(
        name=who.name,
        uuid=who.uuid,
        run_id=job.run_id,
        role=role,
        mac=who.mac,
        console_log=screen,
        machine=given.machine,
        # Two translated machines share the host's processors; more virtual ones would only take turns.
        vcpus=given.vcpus if accel.name == "kvm" else max(1, min(given.vcpus, host_facts.cpu_count() // 2)),
        memory=given.memory // MIB,
        accel=accel.name,
        host_phys_bits=host_facts.phys_bits(),
        firmware=given.firmware,
        nvram=job.scratch / f"{role}.nvram" if given.firmware == "uefi" else None,
        devices=given.devices,
        disks=(Disk(overlay, "qcow2", DISK_SERIAL, backing=(Layer(base.path, base.format),)),),
        cdroms=(seed,),
        serial1=reports,
        network=network(given.network, given.network_name, job.settings.uri),
        on_reboot="restart",
    )
    evidence.write(job.evidence / f"{role}.xml", render(spec))
    machines.enter_context(LogFollower(reports, told))
    # Not the stream that is logged in through: a pty drops what nobody takes in time, the log daemon does not.
    machines.enter_context(LogFollower(screen, console))
    started = time.monotonic()
    stop = threading.Event()
    machine = machines.enter_context(host.boot(spec, job.scratch / f"{role}.stream", keep=job.settings.keep_failed))
    machines.callback(stop.set)
    limit = stretched(job.settings.patience, accel.name).boot
    return Twin(role, instance, machine, told, console, key[0], limit, started, stop)


def require_well(job: Job, twin: Twin, error: type[BuilderError], *, within: float = 0.0) -> None:
    """The copy runs, and has not said that it will never come up.

    Args:
        within: seconds in which it may still turn out that it is gone.

    Raises:
        BuilderError: (`error`) with the cause that its end or its console tells.
        HostError: libvirt went away.
    """
    ending = waiting.until(twin.machine.gone, within=within)
    if ending is None:
        text = "".join(read_texts({"console": twin.console}, CONSOLE_END).values())
        seen = judge(text, "console", "system") or flooded(twin.console.stat().st_size, "console")
    else:
        evidence.keep_qemu_log(job, twin.machine.spec.name, f"{twin.role}.qemu.log")
        said = read_texts({"console": twin.console})
        seen = of_ending(ending, said, evidence.qemu_words(job, f"{twin.role}.qemu.log"), speaker="system")
    if seen is not None:
        raise seen.told(error, twin.role, f"{seen.line}\n{tail(twin.console)}".strip())


@dataclass(frozen=True)
class Door:
    """A login as root over SSH, where it was had, with what host keys, and how long after the start."""

    session: guest.GuestSession
    host: str
    host_keys: tuple[str, ...]
    boot_seconds: float


@contextmanager
def entered(job: Job, twin: Twin) -> Iterator[Door]:
    """Log in over SSH, with the host key that the copy told on ttyS1.

    Raises:
        VerifyError: it told none, has no address, or does not let root in.
    """
    prints = _wait_ready(job, twin)
    left = max(1.0, twin.limit - (time.monotonic() - twin.started))
    host, port = _door(job, twin, left)
    login = guest.connect(port, twin.key, prints, within=left, host=host, error=VerifyError, stop=twin.stop.is_set)
    with login as session:
        boot_seconds = time.monotonic() - twin.started
        job.progress.note(f"{twin.role}: root is in over SSH after {boot_seconds:.0f} s")
        yield Door(session, host, tuple(prints), boot_seconds)


def examine(job: Job, twin: Twin, inspect: Callable[[guest.GuestSession], None] | None = None) -> TwinReport:
    """Log in over SSH and on the console, and look whether all is well.

    Args:
        inspect: is called last, with the login over SSH.

    Raises:
        VerifyError: what failed, with the copy's name.
    """
    with entered(job, twin) as door:
        session, boot_seconds = door.session, door.boot_seconds
        left = max(1.0, twin.limit - (time.monotonic() - twin.started))
        with console_login.log_in(twin.machine.console, job.secrets.root_password, within=left) as shell:
            answer = shell.run("id -u")
        if answer.text.strip() != "0":
            raise VerifyError(f"{twin.role}: the console login is not root's", answer.text)
        job.progress.note(f"{twin.role}: root is in on the console")
        _require_no_failed_unit(twin, session)
        for name, command in job.inputs.checks:
            reply = session.run(command)
            if reply.status != 0:
                raise VerifyError(
                    f"{twin.role}: check {name} failed (exit status {reply.status})",
                    f"{command}\n{(reply.out + reply.err).strip()}",
                )
        facts = session.run(_FACTS).out
        if inspect is not None:
            inspect(session)
    values, lists = _sorted_out(facts)
    return TwinReport(
        role=twin.role,
        machine_id=values.get("machine_id", ""),
        hostname=values.get("hostname", ""),
        mac=values.get("mac", ""),
        kernel=values.get("kernel", ""),
        cmdline=values.get("cmdline", ""),
        release=values.get("release", ""),
        host_keys=door.host_keys,
        boot_seconds=round(boot_seconds, 1),
        address=door.host if job.inputs.network != "user" else "",
        **lists,
        checks=tuple(name for name, _ in job.inputs.checks),
    )


def network(mode: str, name: str | None, uri: str) -> UserNet | LibvirtNet | BridgeNet:
    """What the recipe's network.mode and network.name mean on this host.

    Raises:
        HostError: an ordinary user's libvirt has neither networks nor bridges; or there is no such one.
    """
    if mode == "user":
        return UserNet()
    if uri.endswith("/session"):
        raise HostError(
            f"network.mode: {mode} needs qemu:///system, not {uri}",
            hint="run as root, use --connect qemu:///system, or --set network.mode=user",
        )
    if mode == "bridge":
        bridge = name or "br0"
        if not Path(f"/sys/class/net/{bridge}/bridge").is_dir():
            raise HostError(f"this host has no bridge {bridge}", hint=f"builder host prepare --bridge {bridge}")
        return BridgeNet(bridge)
    wanted = name or libvirt_host.nat_network(uri)
    found = next((one for one in libvirt_host.inventory(uri).networks if one.name == wanted), None)
    if found is None:
        raise HostError(f"libvirt has no network {wanted}", hint="builder host prepare --nat 192.168.150.0/24")
    if not found.active:
        raise HostError(f"libvirt's network {wanted} does not run", hint=f"virsh net-start {wanted}")
    return LibvirtNet(wanted)


def _door(job: Job, twin: Twin, within: float) -> tuple[str, int]:
    """Where the copy's sshd is reached."""
    network = twin.machine.spec.network
    if isinstance(network, UserNet):
        return "127.0.0.1", twin.machine.ssh_port or 0
    bridge = network.name if isinstance(network, BridgeNet) else None
    machine = twin.machine
    address = guest_address.find(
        machine.spec.mac, twin.reports, bridge, machine.address, within=within, stop=twin.stop.is_set
    )
    if address is None:
        raise VerifyError(
            f"the address of {twin.role} did not become known within {within:.0f} s",
            f"asked for: a lease, the guest agent, ARP for {twin.machine.spec.mac}, its own line on ttyS1",
            "does a DHCP server answer on this network?",
        )
    job.progress.note(f"{twin.role}: has the address {address}")
    return address, 22


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


def _wait_ready(job: Job, twin: Twin) -> list[str]:
    """Wait for the copy's own word that its identity stands; the fingerprints of its host keys."""

    def ready() -> str | None:
        if twin.stop.is_set():
            return ""
        text = twin.reports.read_text(encoding="utf-8", errors="replace")
        return text if re.search(rf"^BUILDER READY {re.escape(twin.instance)}\s*$", text, re.M) else None

    text = waiting.until(ready, within=twin.limit, every=0.1)
    if text is None:
        raise VerifyError(
            f"{twin.role} did not take its identity within {twin.limit:.0f} s",
            tail(twin.console),
            f"see {twin.console}",
        )
    for line in text.splitlines():
        if line.startswith("BUILDER WARNING "):
            job.progress.note(f"{twin.role}: {line.removeprefix('BUILDER WARNING ')}")
    prints = [found for found, _kind in _HOSTKEY.findall(text)]
    if not prints:
        raise VerifyError(f"{twin.role} told no SSH host key on ttyS1", text.strip(), f"see {twin.console}")
    return prints


def _require_no_failed_unit(twin: Twin, session: guest.GuestSession) -> None:
    """Wait until the system has come up whole, then ask which units failed."""

    def settled() -> str | None:
        if twin.stop.is_set():
            return "stopped"
        state = session.run("systemctl is-system-running").out.strip()
        return state if state not in ("starting", "initializing", "") else None

    state = waiting.until(settled, within=twin.limit, every=0.5)
    if state is None:
        jobs = session.run("systemctl list-jobs --no-pager").out.strip()
        raise VerifyError(f"{twin.role}: the system never finished booting", jobs)
    listed = session.run("systemctl list-units --failed --no-legend --plain --no-pager").out
    # Once a line: a unit without a description has its name there again.
    failed = [found[0] for line in listed.splitlines() if (found := _UNIT.search(line))]
    if failed:
        names = " ".join(failed)
        log = session.run(f"systemctl status --no-pager --lines=5 {names}").out.strip()
        raise VerifyError(f"{twin.role}: failed unit{'s' if len(failed) > 1 else ''}: {', '.join(failed)}", log)
