"""Values of others in other languages: Ruby, XML and JSON that builder writes hold known or quoted values only."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from builder import images
from builder.clones import record
from builder.errors import VerifyError
from builder.images import manifest as manifests
from builder.images import vagrant
from builder.images.export import export
from builder.vm import domain_xml
from tests.clones.conftest import MADE_FOR
from tests.hostile.manifests import lay, placed, written

RUBY = 'q35"\n    system("touch /tmp/PWNED") #'
EVIL = st.sampled_from([RUBY, "#{`id`}", "'\"\\\n", "<x/>&amp;", "]]>", "%(machine)s", "$(id)", "\n[Service]\nExec=x"])
NAMES = st.text("ab-_.\n\r\t\"'<>&%$#{}` ", min_size=1, max_size=12) | EVIL


@pytest.mark.parametrize("place", ["machine", "devices", "vcpus", "memory", "firmware"])
def test_no_value_of_a_manifest_gets_into_a_vagrantfile(tmp_path: Path, place: str) -> None:
    lay(tmp_path, placed(written(b"disk"), f"stages/verify/inputs/{place}", RUBY))
    with pytest.raises(VerifyError, match=f"{place}='q35"):
        images.load_image(tmp_path, "toy")


def test_a_vagrantfile_holds_known_values_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    content = disk.read_bytes()
    lay(tmp_path / "images", placed(written(content), "recipe", "toy"), content)
    image = images.load_image(tmp_path / "images", "toy")
    # The name of the file is the user's, and the box does not repeat it.
    target = tmp_path / 'a"\n#{`id`}.box'
    export(image, "vagrant", target)
    with tarfile.open(target) as box:
        file = box.extractfile("Vagrantfile")
        assert file is not None
        text = file.read().decode()
    assert text == vagrant.VAGRANTFILE % {
        "machine": "q35", "memory": 2048, "vcpus": 2, "bus": "virtio", "nic": "virtio",
    }  # fmt: skip


@given(NAMES, NAMES)
@examples(max_examples=60)
def test_names_of_folders_and_images_are_text_in_xml(folder: str, image: str) -> None:
    """Whatever the words are, they add no element."""
    manifest: dict[str, Any] = {
        "name": "web", "uuid": "6f5d2e7c-24f5-4bb0-8a57-30f0d5b2a1c4", "mac": "52:54:00:00:00:01", "image": image,
        "version": "0" * 12, "base": f"/{folder}/base.qcow2", "created": "", "uri": "qemu:///session", "accel": "tcg",
        "host_phys_bits": 40, "disk_size": 1 << 30, "network": "user", "port": 2222, "hostname": "web",
        "address": None, "gateway": None, "dns": (), "key": None, **MADE_FOR, "memory": 64,
    }  # fmt: skip
    vm = record.Vm.model_validate(manifest)
    spec = record.spec(vm, Path("/") / folder)
    found = ET.fromstring(domain_xml.render(spec))
    assert found.findtext("name") == "web"
    plain = ET.fromstring(domain_xml.render(dataclasses.replace(spec, keepsake={"image": "x"})))
    keep = {f"{{{domain_xml.METADATA_NS}}}{name}" for name in ("image", "version", "folder")}
    assert [one.tag for one in found.iter() if one.tag not in keep] == [
        one.tag for one in plain.iter() if one.tag not in keep
    ]


@given(st.text(max_size=20) | EVIL)
@examples(max_examples=60)
def test_a_name_that_is_no_name_is_no_manifest(name: str) -> None:
    manifest = written(b"disk", name)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        return
    with pytest.raises(VerifyError):
        manifests.parse(json.dumps(manifest).encode(), "x", "here")
