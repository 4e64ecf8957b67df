"""The published image needs nothing from builder: plain QEMU, a seed CD made by hand, and an ordinary ssh."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.system import retry

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Below /var/tmp, as pytest's own folders may lie on a small tmpfs."""
    path = Path(tempfile.mkdtemp(prefix="builder-by-hand-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.timeout(900)
def test_root_gets_into_the_image_under_plain_qemu(golden: Any, folder: Path) -> None:
    image = Path(golden["image"]["disk"])
    before = (image.stat().st_mtime_ns, image.stat().st_size)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key"], cwd=folder, check=True)
    (folder / "seed").mkdir()
    public = (folder / "key.pub").read_text().strip()
    (folder / "seed" / "builder.conf").write_text(f"instance-id=by-hand\nhostname=by-hand\nssh-key={public}\n")
    subprocess.run(
        ["genisoimage", "-quiet", "-V", "cidata", "-r", "-J", "-o", "seed.iso", "seed"], cwd=folder, check=True
    )
    port = free_port()
    words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1024", "-smp", "2", "-snapshot"]
    words += ["-drive", f"file={image},format=qcow2,if=virtio", "-cdrom", "seed.iso", "-nographic"]
    words += ["-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:22"]
    ssh = ["ssh", "-p", str(port), "-i", "key", "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]
    ssh += ["-o", "UserKnownHostsFile=known_hosts", "-o", "ConnectTimeout=20", "root@127.0.0.1", "id -u; hostname"]

    def login() -> str | None:
        assert machine.poll() is None, (folder / "console.log").read_text(errors="replace")[-2000:]
        done = subprocess.run(ssh, cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    with (folder / "console.log").open("wb") as console:
        machine = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            assert (retry.until(login, within=800, every=1) or "").split() == ["0", "by-hand"]
        finally:
            machine.kill()
            machine.wait()
    assert (image.stat().st_mtime_ns, image.stat().st_size) == before
