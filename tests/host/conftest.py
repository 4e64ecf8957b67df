"""A host and its gateway, each in namespaces of its own; all that runs in them dies with the test.

Programs that the machine of the tests must not run itself (sshd, NetworkManager and others) are unpacked, never
installed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from builder.system import locks, retry

World = tuple["Cell", "Cell"]
# Installing them would start services, and one of them takes over the network.
UNPACKED = ("cloud-init", "network-manager", "nftables", "openssh-server")
SOURCE = Path(__file__).parents[2]
SHARE = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
SCREENS = """\
set -e
mkdir -p {work}/etc {work}/trash {work}/cgroup
mount --rbind /sys/fs/cgroup {work}/cgroup
mount -t sysfs sys /sys
mount --rbind {work}/cgroup /sys/fs/cgroup
mount -t overlay -o lowerdir=/etc,upperdir={work}/etc,workdir={work}/trash over /etc
mount -t tmpfs run /run
mount -t tmpfs lib /var/lib/libvirt
mount -t tmpfs cache /var/cache/libvirt
mount -t tmpfs log /var/log/libvirt
rm -rf /etc/libvirt/qemu/networks/autostart /etc/libvirt/storage
mkdir -p {work}/builder {work}/lib
mount -t overlay -o lowerdir=/var/lib,upperdir={work}/lib,workdir={work}/builder over /var/lib
mount -t tmpfs lib /var/lib/libvirt
ip link set lo up
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
"""
# What the packages' own scripts would have made.
ACCOUNTS = """\
set -e
id sshd >/dev/null 2>&1 || useradd --system --no-create-home --home-dir /run/sshd --shell /usr/sbin/nologin sshd
mkdir -p /run/sshd /etc/NetworkManager/system-connections
test -e /etc/ssh/sshd_config || cp /usr/share/openssh/sshd_config /etc/ssh/sshd_config
"""
# A group that QEMU's user is not in.
FOREIGN = 12345
GATEWAY = "10.77.0.1"
OWN = "10.77.0.19"


class Cell:
    """Namespaces, held by a process that does nothing."""

    def __init__(self, pid: int, work: Path) -> None:
        self.pid = pid
        self.work = work

    def enter(self, *words: object) -> list[str]:
        """The command that runs a command inside."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", *map(str, words)]

    def run(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        done = subprocess.run(self.enter(*words), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
        return done

    def builder(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run builder inside, to its end."""
        with self.start(*words, **environment) as child:
            out, err = child.communicate(timeout=120)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        """Start builder inside, on no terminal and not over SSH."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SSH_", "SUDO_", "XDG_"))}
        return subprocess.Popen(
            self.enter(sys.executable, "-m", "builder", *words),
            cwd=self.work,
            env={**kept, "COLUMNS": "80", "PYTHONPATH": str(SOURCE), "BUILDER_ARTIFACTS": "artifacts", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def network(self) -> list[str]:
        """All that `put back exactly` is about: links, addresses, routes of both families and all tables."""
        shown = []
        for words in (
            ["-d", "link"],
            ["addr"],
            ["route", "show", "table", "all"],
            ["-6", "route", "show", "table", "all"],
        ):
            told = json.loads(self.run("ip", "-json", *words).stdout)
            shown += sorted(json.dumps(_steady(each), sort_keys=True) for each in told)
        return shown

    def files(self) -> dict[str, bytes]:
        """Every file that differs from the machine's own /etc."""
        return {
            str(path.relative_to(self.work / "etc")): path.read_bytes()
            for path in sorted((self.work / "etc").rglob("*"))
            if path.is_file()
        }


def _steady(told: Any) -> Any:
    """Without what moves by itself: lifetimes, counters, timers."""
    carried = ("valid_life_time", "preferred_life_time", "ageing", "stats", "stats64", "used", "users", "age")
    if isinstance(told, dict):
        return {key: _steady(value) for key, value in told.items() if key not in carried and "timer" not in key}
    return [_steady(each) for each in told] if isinstance(told, list) else told


@contextmanager
def cell(work: Path) -> Iterator[Cell]:
    """Namespaces for the length of the block."""
    with subprocess.Popen(["unshare", *SHARE, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        try:
            children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
            inner = retry.until(lambda: children.read_text().strip() or None, within=10)
            assert inner
            # The new mount table is there as soon as `cat` runs.
            assert retry.until(lambda: Path(f"/proc/{inner}/comm").read_text() == "cat\n" or None, within=10)
            yield Cell(int(inner), work)
        finally:
            holder.kill()


@pytest.fixture(scope="session")
def unpacked(pytestconfig: pytest.Config) -> Path:
    """A tree with those programs, and all that they need and this machine lacks."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("unpacked")
    with locks.held(folder.parent / "unpacked.lock"):
        whole, wanted = folder / "whole", " ".join(UNPACKED)
        if not whole.exists() or whole.read_text() != wanted:
            _unpack(folder)
            whole.write_text(wanted)
    return folder


def _unpack(folder: Path) -> None:
    debs = folder / "debs"
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "install", "-q", "-y", "--download-only", "--no-install-recommends", *UNPACKED]
    options = ["-o", f"Dir::Cache::archives={debs}", "-o", "Debug::NoLocking=1"]
    for words in (download, ["apt-get", "update", "-q"], download):
        done = subprocess.run([*words, *options], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0 and words is download:
            break
    else:
        pytest.skip(f"packages cannot be fetched: {done.stderr[-200:]}")
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    for deb in sorted(debs.glob("*.deb")):
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", folder], input=tar, check=True)


@pytest.fixture
def equipped(world: World, unpacked: Path) -> World:
    """The world, with those programs on its host; what the machine of the tests has itself comes first."""
    host, _ = world
    host.run("mount", "-t", "overlay", "-o", f"lowerdir=/usr:{unpacked}/usr", "more", "/usr")
    host.run("sh", "-c", ACCOUNTS)
    return world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A host with the uplink `up0`, and its gateway on the other end of the cable."""
    with two_hosts(tmp_path) as made:
        yield made


@contextmanager
def two_hosts(work: Path) -> Iterator[World]:
    """The same, for the length of the block."""
    with ExitStack() as stack:
        host, gateway = (stack.enter_context(cell(work)) for _ in range(2))
        host.run("sh", "-c", SCREENS.format(work=work))
        gateway.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; ip link set lo up")
        ends = ["up0", "netns", str(host.pid), "type", "veth", "peer", "name", "gw0", "netns", str(gateway.pid)]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        for there, name, addresses in ((gateway, "gw0", [f"{GATEWAY}/24", "fd77::1/64"]), (host, "up0", UPLINK)):
            there.run("ip", "link", "set", name, "up")
            for address in addresses:
                there.run("ip", "addr", "add", *address.split(), "dev", name)
        host.run("ip", "route", "add", "default", "via", GATEWAY, "metric", "50")
        host.run("ip", "route", "add", "10.99.0.0/16", "via", GATEWAY, "table", "77", "mtu", "1300")
        host.run("ip", "-6", "route", "add", "default", "via", "fd77::1")
        assert retry.until(lambda: _up(host) or None, within=10)
        yield host, gateway


@pytest.fixture
def kvm_of_others() -> Iterator[Path]:
    """A device like /dev/kvm that QEMU's user may not open; not below tmp_path, which others may not pass."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        Path(top).chmod(0o711)
        device = Path(top, "kvm")
        os.mknod(device, stat.S_IFCHR, os.makedev(10, 232))
        os.chown(device, 0, FOREIGN)
        device.chmod(0o640)
        yield device


class Silence:
    """What an asker learnt: the longest time without an answer, in seconds, and how many answers there were."""

    longest = 0.0
    answered = 0


@contextmanager
def asking(world: World) -> Iterator[Silence]:
    """The gateway asks the host again and again for the length of the block; the result stands at its end."""
    host, gateway = world
    found = Silence()
    with talking(host, ECHO) as echo, talking(gateway, ASK) as asker:
        try:
            yield found
        finally:
            longest, answered = asker.communicate("\n", timeout=30)[0].split()
            found.longest, found.answered = float(longest), int(answered)
            echo.communicate("\n", timeout=30)


@contextmanager
def talking(host: Cell, code: str) -> Iterator[subprocess.Popen[str]]:
    """A program inside that ends with its input, from its first line on."""
    words = host.enter(sys.executable, "-c", code)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child


def _up(host: Cell) -> bool:
    """The link is up and its own IPv6 address is in use."""
    shown = host.run("ip", "addr", "show", "up0").stdout
    return "state UP" in shown and "inet6 fe80" in shown and "tentative" not in shown


ECHO = """
import contextlib, select, socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 7))
print("ready", flush=True)
while (ready := select.select([sys.stdin, server], [], [])[0]) == [server]:
    with contextlib.suppress(OSError):  # no way out just now
        server.sendto(*server.recvfrom(64))
"""
# Prints when its input ends.
ASK = f"""
import select, socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
longest, answered, last = 0.0, 0, time.monotonic()
while not select.select([sys.stdin], [], [], 0.005)[0]:
    client.sendto(b"x", ("{OWN}", 7))
    if select.select([client], [], [], 0.02)[0]:
        client.recv(64)
        now = time.monotonic()
        longest, last, answered = max(longest, now - last), now, answered + 1
print(max(longest, time.monotonic() - last), answered)
"""
# Static, a second one with a label of its own, leased, IPv6.
UPLINK = [
    f"{OWN}/24 brd +",
    "10.77.0.20/24 label up0:1",
    "10.78.0.5/24 valid_lft 5000 preferred_lft 4000",
    "fd77::19/64",
]
