"""Export an image as a box for Vagrant: an ordinary copy, which gets its identity from a seed.

A box for Vagrant's libvirt provider is a tar.gz of `metadata.json` (provider, format, virtual_size in GiB), `box.img`
and a `Vagrantfile` (vagrant-libvirt, example_box/README.md). Vagrant logs in as root with a key made for the box and
shipped in it: anyone who has the box can log in to its machines until the key is replaced.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from builder.errors import PublishError
from builder.guest import seed, ssh
from builder.guest.seed import Identity
from builder.images.catalogue import Image
from builder.images.convert import Progress, converted
from builder.iso import seed_cd
from builder.vm import qemu_img

DISK = "box.img"
KEY = "vagrant_private_key"
SEED = "seed.iso"
GIB = 1 << 30
VAGRANTFILE = f"""\
Vagrant.configure("2") do |config|
  config.ssh.username = "root"
  config.ssh.private_key_path = File.expand_path("../{KEY}", __FILE__)
  config.ssh.insert_key = false
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider :libvirt do |libvirt|
    libvirt.machine_type = "%(machine)s"
    libvirt.memory = %(memory)d
    libvirt.cpus = %(vcpus)d
    libvirt.disk_bus = "%(bus)s"
    libvirt.nic_model_type = "%(nic)s"
    libvirt.storage :file, :device => :cdrom, :path => File.expand_path("../{SEED}", __FILE__)
  end
end
"""


def write_box(image: Image, part: Path, *, compression: qemu_img.Compression, on_progress: Progress) -> None:
    """Write a box, and read it back.

    Raises:
        PublishError: qemu-img failed, or the box does not hold what was put into it.
    """
    with tempfile.TemporaryDirectory(prefix=f"{part.name}.", dir=part.parent) as name:
        work = Path(name)
        converted(image, "qcow2", work / DISK, compression, on_progress)
        (work / KEY).touch(mode=0o600)
        (work / KEY).write_bytes(ssh.make_private_key())
        line = ssh.public_line(ssh.load_key(work / KEY), "vagrant")
        who = Identity(f"vagrant-{image.version}", "vagrant.localdomain", (line,))
        seed_cd.write_iso(work / SEED, seed_cd.IDENTITY_LABEL, seed.files(who), mode=0o644)
        size = qemu_img.info(work / DISK, "qcow2").virtual_size
        facts = {"provider": "libvirt", "format": "qcow2", "virtual_size": -(-size // GIB)}
        (work / "metadata.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
        (work / "Vagrantfile").write_text(VAGRANTFILE % _machine(image), encoding="utf-8")
        on_progress("packing", 0)
        # The disk is compressed already; what tells most is how fast it is written.
        with tarfile.open(part, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as box:
            for one in ("metadata.json", "Vagrantfile", KEY, SEED, DISK):
                box.add(work / one, one, filter=_nobodys)
        on_progress("reading back", 0)
        _read_back(part, work)


def _machine(image: Image) -> dict[str, str | int]:
    """The machine that the image was verified on: of each value only those that the manifest's model knows."""
    machine = image.facts.machine
    plain = machine.devices == "virtio"
    return {
        "machine": machine.machine,
        "memory": machine.memory >> 20,
        "vcpus": machine.vcpus,
        "bus": "virtio" if plain else "sata" if machine.machine == "q35" else "ide",
        "nic": "virtio" if plain else "e1000",
    }


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _read_back(part: Path, work: Path) -> None:
    with tarfile.open(part, "r:gz") as box:
        for path in work.iterdir():
            packed = box.extractfile(path.name)
            with path.open("rb") as file:
                if packed is None or _sha256(packed) != _sha256(file):
                    raise PublishError(f"{path.name} in the box is not what was put into it")


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in iter(lambda: file.read(io.DEFAULT_BUFFER_SIZE * 64), b""):
        digest.update(piece)
    return digest.hexdigest()
