"""From bare Linux to a host that can build, and back: real packages in a chroot that had only Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.host import prepare
from builder.system import packages
from tests.host.conftest import OWN, SOURCE, World

BRIDGE = ["--bridge", "br0", "--nat", "192.168.150.0/24", "--no-confirm"]
# What builder needs of the host's own file systems; /proc is missing at first.
MOUNTS = """\
set -e
mount --bind {root} {root}
mkdir -p {root}{source}
mount --rbind {source} {root}{source}
"""
MORE = """\
set -e
mount -t proc proc {root}/proc
mount --rbind /sys {root}/sys
mount --rbind /dev {root}/dev
mount -t tmpfs run {root}/run
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A minimal Debian, with the packages that it will want in its cache: inside there is no way to them."""
    root = tmp_path / "bare"
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3", "--skip=cleanup/apt/lists"]
    subprocess.run([*words, "bookworm", root], check=True)
    names = packages.in_sections(prepare.SECTIONS, "apt")
    download = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--download-only", *names]
    resolv = root / "etc/resolv.conf"
    resolv.write_text(Path("/etc/resolv.conf").read_text())
    subprocess.run(["chroot", root, *download], check=True, capture_output=True)
    resolv.unlink()
    return root


@pytest.mark.slow
def test_from_bare_linux_to_a_host_and_back(world: World, bare: Path) -> None:
    host, _ = world

    def builder(*words: str) -> subprocess.CompletedProcess[str]:
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", f"PYTHONPATH={SOURCE}"]
        command = ["chroot", bare, *clean, sys.executable, "-m", "builder", "host", *words]
        return subprocess.run(host.enter(*command), capture_output=True, text=True, timeout=900, check=False)

    host.run("sh", "-c", MOUNTS.format(root=bare, source=SOURCE))
    done, rows = checked(builder("check", "--json"))
    assert done == 3
    assert [name for name, row in rows.items() if row["state"] == "fail"] == ["programs", "libvirt"]
    assert rows["cpu"]["found"].endswith("/proc is not mounted")
    assert rows["programs"]["fix"].startswith("apt-get install")

    host.run("sh", "-c", MORE.format(root=bare))
    before = host.network()
    made = builder("prepare", *BRIDGE)
    assert made.returncode == 0, made.stderr
    done, rows = checked(builder("check", "--json"))
    assert done == 0
    assert {row["state"] for row in rows.values()} <= {"ok", "info", "warn"}
    assert rows["pools"]["found"] == "iso, store"
    assert rows["networks"]["found"] == "builder (virbr-builder), default (stopped)"
    assert rows["bridge"]["found"] == "br0 over up0"
    assert rows["directories"]["found"] == "store /data_kvm/store, media /data_kvm/iso"
    assert f"inet {OWN}/24" in host.run("ip", "addr", "show", "br0").stdout
    again = builder("prepare", *BRIDGE)
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing to do\n", "")

    back = builder("restore", "--packages")
    assert back.returncode == 0, back.stderr
    assert host.network() == before
    assert not (bare / "data_kvm").exists()
    assert checked(builder("check", "--json"))[0] == 3


def checked(done: subprocess.CompletedProcess[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and rows by name."""
    assert done.stdout, done.stderr
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)["rows"]}
