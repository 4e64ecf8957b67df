"""qcow2 files that name other files, are encrypted, cut off or mutated: refused before anything opens them."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import images
from builder.clones.record import DISK
from builder.errors import VerifyError
from builder.registry import artifact, push_pull
from builder.stages import provision, publish, seal, verify
from builder.stages.budget import BudgetInputs
from builder.vm import qcow2, qemu_img
from builder.vm.domains import Domains
from tests.clones.conftest import MADE_FOR, CloneEnv, host, house
from tests.command import Ran, builder
from tests.conftest import Silent
from tests.fakes.qcow2 import qcow2 as sound
from tests.registry.conftest import Registry, registry, repository

__all__ = ["builder", "host", "house", "registry"]

Builder = Callable[..., Ran]
SECRET = b"a file of the host that no image may reach " * 400
KINDS = ("backing file", "data file", "protocol")


def qemu(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *words], check=True, capture_output=True)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that an attacker wants to read or to change."""
    path = tmp_path / "victim"
    path.write_bytes(SECRET.ljust(1 << 20, b"\n"))
    return path


def hostile(kind: str, victim: Path, where: Path) -> Path:
    """A qcow2 file that reaches for the victim, or for a server."""
    disk = where / f"{secrets.token_hex(4)}.qcow2"
    before = victim.read_bytes()
    if kind == "backing file":
        qemu("create", "-q", "-u", "-f", "qcow2", "-b", victim, "-F", "raw", disk, "1M")
    elif kind == "protocol":
        qemu("create", "-q", "-u", "-f", "qcow2", "-b", "nbd://127.0.0.1:9/x", "-F", "raw", disk, "1M")
    else:
        qemu("create", "-q", "-f", "qcow2", "-o", f"data_file={victim},data_file_raw=on", disk, "1M")
        victim.write_bytes(before)
    return disk


def unchanged(victim: Path) -> bool:
    return victim.read_bytes() == SECRET.ljust(1 << 20, b"\n")


def catalogued(catalogue: Path, disk: Path, name: str = "evil") -> images.Image:
    """The disk as a version in the catalogue, as an attacker makes one, or as an earlier pull left it."""
    manifest = {"disk": {"virtual_size": 1 << 20}, "stages": {"verify": {"inputs": MADE_FOR, "seconds": 1.0}}}
    return images.publish(catalogue, name, {f"{name}.qcow2": disk}, manifest)


def refused(done: Any) -> None:
    assert done.returncode == 6, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    first, *_ = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert "another file" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_pull_refuses_it(kind: str, builder: Builder, registry: Registry, victim: Path, tmp_path: Path) -> None:
    image = catalogued(tmp_path / "theirs", hostile(kind, victim, tmp_path))
    with repository(registry.address()) as there:
        push_pull._version(image, artifact.draft(image), there, Silent())
    done = builder("images", "pull", registry.address(f":{image.version}"))
    refused(done)
    assert images.list_images(tmp_path / "artifacts/images") == []
    assert unchanged(victim)


def sealed_job(disk: Path, where: Path) -> Any:
    """A job of `publish` over this sealed disk."""
    (where / "seal").mkdir()
    (where / "seal" / seal.FILE).hardlink_to(disk)
    (where / "seal" / seal.FACTS).write_text('{"size": 1}')
    (where / "verify").mkdir()
    (where / "verify" / verify.FILE).write_text('{"twins": {}}')
    needs = {"seal": where / "seal", "verify": where / "verify"}
    inputs = SimpleNamespace(name="evil", budget=BudgetInputs())
    return SimpleNamespace(needs=needs, inputs=inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_catalogue_already_is_refused_by_all_who_open_it(
    kind: str, builder: Builder, victim: Path, tmp_path: Path
) -> None:
    image = catalogued(tmp_path / "artifacts/images", hostile(kind, victim, tmp_path))
    refused(builder("images", "verify", "evil"))
    refused(builder("images", "export", "evil", "--format", "raw", "-o", "out.img"))
    refused(builder("images", "push", "evil", "oci://127.0.0.1:1/evil"))
    assert not (tmp_path / "out.img").exists()
    paths = SimpleNamespace(images=tmp_path / "artifacts/images")
    job: Any = SimpleNamespace(inputs=SimpleNamespace(base=("evil", image.sha256)), paths=paths)
    with pytest.raises(VerifyError, match=r"the disk of evil@.* is refused"), provision._below(job):
        pass
    with pytest.raises(VerifyError, match="the disk of evil is refused"):
        publish.run(sealed_job(image.disk, tmp_path))
    assert unchanged(victim)


def test_a_clone_refuses_it(house: CloneEnv, victim: Path, host: Domains) -> None:
    for kind in KINDS:
        evil = catalogued(house.catalogue, hostile(kind, victim, house.folder))
        for options in ({}, {"full": True, "disk_size": 16 << 20}):
            with pytest.raises(VerifyError, match="another file"):
                house.make(host, "x", image=f"evil@{evil.version}", **options)
    assert house.store(host).vms() == []
    assert unchanged(victim)


def test_a_clone_whose_disk_or_base_reaches_further_is_refused(house: CloneEnv, victim: Path, host: Domains) -> None:
    """What QEMU's user may write to, a QEMU that was broken into may have written."""
    (vm,) = house.make(host, "web")
    store, disk = house.store(host), house.vms / vm.name / DISK
    house.publish(b"something else\r\n")
    for kind in KINDS:
        evil = catalogued(house.catalogue, hostile(kind, victim, house.folder))
        with pytest.raises(VerifyError, match=r"the disk of evil@.* another file"):
            store.rebase(vm.name, f"evil@{evil.version}")
        assert images.users_of(evil) == []
        good = disk.read_bytes()
        hostile(kind, victim, house.folder).replace(disk)
        for open_it in (store.rebase, store.flatten, store.start):
            with pytest.raises(VerifyError, match=f"the disk of {vm.name} .* another file"):
                open_it(vm.name)
        disk.write_bytes(good)
    assert unchanged(victim)


def test_qemu_img_does_not_follow_a_backing_file_either(victim: Path, tmp_path: Path) -> None:
    """The second line of defence: what we do not name is not opened."""
    disk = hostile("backing file", victim, tmp_path)
    qemu_img.convert(disk, "qcow2", tmp_path / "out.raw", "raw")
    assert (tmp_path / "out.raw").read_bytes() == bytes(1 << 20)
    overlay = hostile("backing file", victim, tmp_path)
    base = tmp_path / "base"
    base.write_bytes(b"what we name".ljust(1 << 20, b"."))
    qemu_img.convert(overlay, "qcow2", tmp_path / "ours.raw", "raw", below=(base, "raw"))
    assert (tmp_path / "ours.raw").read_bytes() == base.read_bytes()


def patched(at: int, value: bytes) -> bytes:
    data = sound(b"disk")
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "it is not a qcow2 file"),
        (b"QFI\xfb", "its header is cut off"),
        (sound(b"disk")[:100], "its header is cut off"),
        (sound(b"disk")[:104], "its L1 table is outside of the file"),
        (patched(4, b"\0\0\0\4"), "its version is 4, not 2 or 3"),
        (patched(20, b"\0\0\0\x3f"), "its clusters have 2^63 bytes"),
        (patched(24, b"\x7f"), "its guest would see 91"),
        (patched(24, bytes(8)), "its guest would see 0 bytes"),
        (patched(32, b"\0\0\0\2"), "it is encrypted"),
        (patched(36, b"\xff\xff\xff\xff"), "its L1 table has 4294967295 entries"),
        (patched(40, b"\xff\xff\xff\xff\xff\xff\xfe\0"), "its L1 table is outside of the file"),
        (patched(48, b"\0\0\0\0\0\0\0\0"), "its refcount table is outside of the file"),
        (patched(56, b"\x0f\xff\xff\xff"), "its refcount table has"),
        (patched(60, b"\0\0\0\1"), "it has internal snapshots"),
        (patched(72, b"\0\0\0\0\0\0\0\2"), "it is marked as corrupt"),
        (patched(72, b"\0\0\0\0\0\0\0\4"), "it keeps its data in another file"),
        (patched(72, b"\x80"), "it needs features that are not known here"),
        (patched(100, b"\0\1\0\0"), "its header has 65536 bytes"),
        (patched(104, b"DATA\0\0\0\x05/etc/"), "it keeps its data in another file: /etc/"),
        (patched(104, b"DATA\xff\xff\xff\xff"), "an extension of its header is cut off"),
        (patched(8, b"\0\0\0\0\0\0\1\0\0\0\0\4"), "it needs another file: \\x00"),
        (patched(8, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "the name of its backing file is outside"),
    ],
)
def test_each_fault_of_a_header_is_named(data: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data)
    found = qcow2.fault_of_image(path)
    assert found is not None
    assert found.startswith(fault)


def test_what_qemu_img_makes_without_another_file_passes(tmp_path: Path) -> None:
    for number, options in enumerate(
        ("compat=0.10", "compat=1.1", "cluster_size=2M", "cluster_size=512", "compression_type=zstd",
         "extended_l2=on,cluster_size=128k", "lazy_refcounts=on", "refcount_bits=64")
    ):  # fmt: skip
        qemu("create", "-q", "-f", "qcow2", "-o", options, tmp_path / str(number), "1G")
        assert qcow2.fault_of_image(tmp_path / str(number)) is None, options
    overlay = tmp_path / "overlay"
    qemu("create", "-q", "-f", "qcow2", "-b", tmp_path / "1", "-F", "qcow2", overlay)
    assert qcow2.require_overlay(overlay, [tmp_path / "1"], "web") == tmp_path / "1"
    assert qcow2.require_overlay(tmp_path / "1", [], "web") is None
    for bases in ([tmp_path / "2"], []):
        with pytest.raises(VerifyError, match="the disk of web is refused: it needs another file"):
            qcow2.require_overlay(overlay, bases, "web")


def test_an_encrypted_image_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "luks.qcow2"
    options = ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    qemu("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", *options, disk, "1M")
    assert qcow2.fault_of_image(disk) == "it is encrypted"


def test_what_is_not_a_regular_file_is_not_read(tmp_path: Path, victim: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert qcow2.fault_of_image(tmp_path / "fifo") == "it is not a regular file"
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        qcow2.fault_of_image(tmp_path / "link")


def test_mutated_headers_are_judged_and_never_break(tmp_path: Path, victim: Path) -> None:
    """What passes opens as what it says, and reaches for nothing: many random changes of three files."""
    rng = random.Random(20)
    seeds = [sound(b"disk" * 100)]
    for number, words in enumerate((("-o", "compat=0.10"), ("-o", "cluster_size=512"))):
        qemu("create", "-q", "-f", "qcow2", *words, tmp_path / f"seed{number}", "1M")
        seeds.append((tmp_path / f"seed{number}").read_bytes())
    path = tmp_path / "mutant"
    passed: list[bytes] = []
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(4, 160)
            data[at] = rng.choice((0, 1, 2, 3, 4, 8, 127, 128, 255, rng.randrange(256)))
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        fault = qcow2.fault_of_image(path)
        assert fault is None or fault.isprintable()
        if fault is None and len(passed) < 12:
            passed.append(bytes(data))
    assert passed
    for mutant in passed:
        path.write_bytes(mutant)
        command: list[str | Path] = ["qemu-img", "info", "-f", "qcow2", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "backing file:" not in done.stdout
        assert "data file:" not in done.stdout
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(mutant).digest()
