"""Plan the steps that prepare a host: only what is missing, each described in full before it is done."""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

from builder.errors import BuilderError, HostError
from builder.host import check_libvirt, check_storage, config, sshd
from builder.host import distro as host_system
from builder.host.distro import System
from builder.host.finding import read
from builder.host.journal import Journal
from builder.host.network.validate import NatPlan, nat_faults, nat_xml, refuse
from builder.system import host_facts, netlink, packages, process
from builder.vm import daemon, networks
from builder.vm.networks import Inventory

# What the Makefile installs for `make run`, too.
SECTIONS = ("environment", "run", "rehearsal")
DISPLAY_MANAGER = Path("/etc/systemd/system/display-manager.service")
KVM = host_facts.KVM
UDEV = Path("/run/udev/control")
KVM_RULE = Path("/etc/udev/rules.d/99-builder-kvm.rules")
FETCH = 1800.0  # seconds for a package manager: it downloads


@dataclass(frozen=True)
class PrepareStep:
    """One change to the host.

    Args:
        title: what is done, in a line.
        details: exactly how: the command, or the lines that change in a file.
        do: does it; notes its undo in the journal first.
    """

    title: str
    details: tuple[str, ...]
    do: Callable[[Journal], None] = field(repr=False)


@dataclass(frozen=True)
class PrepareOptions:
    """Target state of the host.

    Args:
        iso_dir, store_dir: where media and images shall live.
        desktop: virt-manager, and the graphical target.
        user: is to be in the groups kvm and libvirt.
        uri: the libvirt that gets the pools.
    """

    iso_dir: Path
    store_dir: Path
    desktop: bool = False
    user: str | None = None
    uri: str = "qemu:///system"


def plan(options: PrepareOptions) -> list[PrepareStep]:
    """The steps from what is to what is wished for; empty when nothing is missing.

    Raises:
        HostError: packages are missing on a host whose package manager is not known.
    """
    system = host_system.find()
    missing = list(_packages(system, options.desktop))
    return [
        *missing,
        *services(system),
        *_groups(options.user),
        *kvm_access(installing=bool(missing)),
        *_directories(options),
        *labels(options),
        *_pools(options),
        *_settings(options),
        *_sshd(system),
        *(desktop(system) if options.desktop else ()),
    ]


def nat_steps(subnet: str, uri: str) -> list[PrepareStep]:
    """The step that makes libvirt's NAT network; none if it is there with this subnet.

    Raises:
        RecipeError: the subnet cannot be used.
    """
    wanted = NatPlan(subnet)
    known = _inventory(uri)
    there = next((net for net in known.networks if net.name == wanted.name), None) if known else None
    # Networks that do not run now will one day.
    others = [net for net in known.networks if net.name != wanted.name] if known else []
    found = {f"libvirt's network {net.name}": _subnet_of(net.xml) for net in others}
    defined = {who: text for who, text in found.items() if text}
    refuse(nat_faults(wanted, netlink.connected(wanted.bridge), defined))
    xml = nat_xml(wanted)
    if there and there.active and _address_of(there.xml) == _address_of(xml):
        return []
    if there and _address_of(there.xml) != _address_of(xml):
        raise HostError(f"libvirt has a network {wanted.name} with another subnet", hint="builder host restore")

    def do(journal: Journal) -> None:
        if there is None:
            journal.record("network", uri=uri, name=wanted.name)
        networks.define_network(uri, xml)

    return [PrepareStep(f"make the NAT network {wanted.name} with {subnet}", tuple(xml.splitlines()), do)]


def _address_of(xml: str) -> tuple[str | None, str | None]:
    ip = ET.fromstring(xml).find("ip")
    return (ip.get("address"), ip.get("netmask")) if ip is not None else (None, None)


def _subnet_of(xml: str) -> str | None:
    address, mask = _address_of(xml)
    return f"{address}/{mask}" if address and mask and ":" not in address else None


def file_step(title: str, path: Path, text: str, then: list[str] | None = None) -> Iterator[PrepareStep]:
    """The step that gives a file this text; none if it has it."""
    before = read(path)
    if before == text:
        return
    changed = difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=0)
    details = [line for line in changed if not line.startswith(("---", "+++", "@@"))]
    yield PrepareStep(title, tuple(details), lambda journal: journal.replace_file(path, text, then=then))


def command_step(title: str, words: list[str], note: Callable[[Journal], None]) -> PrepareStep:
    """A step that runs one program."""

    def do(journal: Journal) -> None:
        note(journal)
        process.run(words, timeout=FETCH, env={"DEBIAN_FRONTEND": "noninteractive"})

    return PrepareStep(title, (f"$ {shlex.join(words)}",), do)


def _packages(system: System, desktop: bool) -> Iterator[PrepareStep]:
    if system.manager is None:
        missing = [name for name in check_libvirt.NEEDED if not host_system.present(name)]
        if missing:
            text = check_libvirt.missing_text(system, missing)
            raise HostError("this host has neither apt-get nor dnf", text, "install these by hand, then again")
        return
    wanted = {*SECTIONS, *(["desktop"] if desktop else []), *(["selinux"] if read(check_storage.ENFORCE) else [])}
    names = host_system.missing_packages(system.manager, packages.in_sections(wanted, system.manager))
    if not names:
        return
    if system.manager == "apt":
        yield command_step("refresh the package lists", ["apt-get", "update", "-q"], lambda _: None)
    words = host_system.install_words(system.manager, names)
    yield command_step("install packages", words, lambda journal: journal.record("packages", names=names))


def services(system: System) -> Iterator[PrepareStep]:
    """libvirt's sockets, now and at boot; none where no systemd runs."""
    if not system.systemd:
        return
    # Where libvirt is not installed yet: RHEL 9 and its kin enable the modular daemons, Debian has libvirtd.
    for name in daemon.sockets() or (daemon.MODULAR if system.manager == "dnf" else daemon.MONOLITHIC):
        enabled, active = _says("is-enabled", name, "enabled"), _says("is-active", name, "active")
        if not (enabled and active):
            note = partial(_note_service, name=name, enabled=enabled, active=active)
            yield command_step(f"start {name} now and at boot", ["systemctl", "enable", "--now", name], note)


def _note_service(journal: Journal, *, name: str, enabled: bool, active: bool) -> None:
    journal.record("service", name=name, enabled=enabled, active=active)


def _says(question: str, name: str, answer: str) -> bool:
    return process.run(["systemctl", question, name], check=False).stdout.strip() == answer


def _groups(user: str | None) -> Iterator[PrepareStep]:
    if user is None:
        return
    try:
        main = pwd.getpwnam(user).pw_gid
    except KeyError:
        raise HostError(f"there is no user {user}", hint="--user NAME") from None
    for name in ("kvm", "libvirt"):
        try:
            group = grp.getgrnam(name)
        except KeyError:
            group = None
        if group is None or (user not in group.gr_mem and group.gr_gid != main):
            note = partial(Journal.record, kind="group", user=user, name=name)
            yield command_step(f"put {user} into the group {name}", ["usermod", "-aG", name, user], note)


def kvm_access(*, installing: bool = False) -> Iterator[PrepareStep]:
    """Let QEMU's user open /dev/kvm: now, and where udev runs, after the next boot too.

    Only its permission is repaired, and only root sees that it is missing.

    Args:
        installing: packages are installed before; QEMU's user may come with them, and is asked for afterwards.
    """
    user = host_facts.qemu_user()
    if user is None and installing and KVM.exists():
        yield PrepareStep(f"open {KVM} to QEMU's user, where it is not", (), _open_to_new_user)
    if user is None or host_facts.kvm_access(*user, KVM) != "denied":
        return
    name, group = host_facts.user_name(user[0]), _kvm_group(user[1])
    if group.gr_gid not in os.getgrouplist(name, user[1]):
        note = partial(Journal.record, kind="group", user=name, name=group.gr_name)
        words = ["usermod", "-aG", group.gr_name, name]
        yield command_step(f"put QEMU's user {name} into the group {group.gr_name}", words, note)
    if UDEV.exists():
        rule = f'SUBSYSTEM=="misc", KERNEL=="kvm", GROUP="{group.gr_name}", MODE="0660"\n'
        reload = ["udevadm", "control", "--reload"]
        yield from file_step(f"keep {KVM} open to the group {group.gr_name} in {KVM_RULE}", KVM_RULE, rule, reload)
    shown = (f"$ chgrp {group.gr_name} {KVM}", f"$ chmod g+rw {KVM}")
    yield PrepareStep(f"open {KVM} to the group {group.gr_name}", shown, partial(_open_kvm, group.gr_gid))


def _kvm_group(gid: int) -> grp.struct_group:
    """The group `kvm`, as udev's own rule has it; else that of QEMU's user."""
    try:
        return grp.getgrnam("kvm")
    except KeyError:
        pass
    try:
        return grp.getgrgid(gid)
    except KeyError:
        brief = f"{KVM} cannot be opened to QEMU's group {gid}: there is no group of that number, and none called kvm"
        raise HostError(brief, hint="groupadd --system kvm") from None


def _open_to_new_user(journal: Journal) -> None:
    for step in kvm_access():
        step.do(journal)


def _open_kvm(gid: int, journal: Journal) -> None:
    status = KVM.stat()
    before = stat.S_IMODE(status.st_mode)
    mode = before | 0o060
    journal.record("device", path=str(KVM), before=[status.st_gid, before], after=[gid, mode])
    os.chown(KVM, -1, gid)
    KVM.chmod(mode)


def _directories(options: PrepareOptions) -> Iterator[PrepareStep]:
    planned: set[Path] = set()
    for wanted in (options.iso_dir, options.store_dir):
        if wanted.exists() and not wanted.is_dir():
            raise HostError(f"{wanted} is no directory")
        for folder in reversed([wanted, *wanted.parents]):
            if not folder.exists() and folder not in planned:
                planned.add(folder)
                yield PrepareStep(f"make the directory {folder}", ("mode 0755",), partial(_make, folder))


def labels(options: PrepareOptions) -> Iterator[PrepareStep]:
    """With SELinux, what QEMU may read and write has a type of its own; the policy keeps it over a relabelling."""
    if not read(check_storage.ENFORCE).strip():
        return
    # With the directories above them that have no type either: QEMU has to pass through.
    unlabelled = [
        _topmost(path)
        for path in (options.iso_dir, options.store_dir)
        if not (path.is_dir() and check_storage.labelled(check_storage.label_of(path)))
    ]
    for path in dict.fromkeys(unlabelled):
        pattern = f"{path}(/.*)?"
        words = ["semanage", "fcontext", "-a", "-t", check_storage.LABEL, pattern]
        note = partial(Journal.record, kind="label", pattern=pattern, path=str(path))
        if not _has_rule(path):
            yield command_step(f"give {path} the SELinux type {check_storage.LABEL}", words, note)
        yield command_step(f"label what is in {path}", ["restorecon", "-R", str(path)], lambda _: None)


def _topmost(path: Path) -> Path:
    """Return the topmost directory on the way that is not there yet, or that no rule of the policy knows."""
    unknown = [each for each in (path, *path.parents) if not each.exists() or check_storage.unknown(each)]
    return unknown[-1] if unknown else path


def _has_rule(path: Path) -> bool:
    """The policy has this type for the path already; semanage refuses to say it twice."""
    if host_system.program("matchpathcon") is None:
        return False
    return check_storage.labelled(process.run(["matchpathcon", "-n", path], check=False).stdout)


def _make(folder: Path, journal: Journal) -> None:
    journal.record("directory", path=str(folder))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)


def _pools(options: PrepareOptions) -> Iterator[PrepareStep]:
    known = _inventory(options.uri)
    pools = known.pools if known else ()
    for path in (options.iso_dir, options.store_dir):
        if any(pool.path == path and pool.active for pool in pools):
            continue
        same = next((pool.name for pool in pools if pool.path == path), None)
        taken = {pool.name for pool in pools}
        name = same or (path.name if path.name not in taken else f"builder-{path.name}")
        yield PrepareStep(
            f"make {path} the libvirt pool {name}", (), partial(_pool, options.uri, name, path, same is None)
        )


def _pool(uri: str, name: str, path: Path, new: bool, journal: Journal) -> None:
    if new:
        journal.record("pool", uri=uri, name=name)
    networks.define_pool(uri, name, path)


def _inventory(uri: str) -> Inventory | None:
    """Return libvirt's networks; None where it is not installed yet."""
    if not any(host_system.program(name) for name in check_libvirt.DAEMONS):
        return None
    try:
        daemon.ensure(uri)
        return networks.inventory(uri)
    except BuilderError:
        return None


def _settings(options: PrepareOptions) -> Iterator[PrepareStep]:
    path = config.host_file()
    text = config.render(config.Directories(media=options.iso_dir, store=options.store_dir), read(path))
    yield from file_step(f"record the directories in {path}", path, text)


def _sshd(system: System) -> Iterator[PrepareStep]:
    if not sshd.CONFIG.exists() or not sshd.uses_dns():
        return
    text = sshd.without_dns(read(sshd.CONFIG))
    reload = ["systemctl", "reload", "sshd" if system.manager == "dnf" else "ssh"] if system.systemd else None
    for step in file_step(f"switch UseDNS off in {sshd.CONFIG}", sshd.CONFIG, text, reload):
        yield PrepareStep(step.title, step.details, partial(_change_sshd, text, reload))


def _change_sshd(text: str, reload: list[str] | None, journal: Journal) -> None:
    trial = sshd.CONFIG.with_name(".sshd_config.builder")
    try:
        trial.write_text(text, encoding="utf-8")
        trial.chmod(0o600)
        sshd.test(trial)
    finally:
        trial.unlink(missing_ok=True)
    journal.replace_file(sshd.CONFIG, text, then=reload)
    if reload:
        process.run(reload)


def desktop(system: System) -> Iterator[PrepareStep]:
    """The graphical target; nothing where no systemd runs."""
    if not system.systemd:
        return
    now = process.run(["systemctl", "get-default"]).stdout.strip()
    if now != "graphical.target":
        note = partial(Journal.record, kind="target", name=now)
        step = command_step("boot into the desktop", ["systemctl", "set-default", "graphical.target"], note)
        if not DISPLAY_MANAGER.exists():
            alone = "no display manager is installed: until there is one, a text login is shown"
            step = replace(step, details=(*step.details, alone))
        yield step
