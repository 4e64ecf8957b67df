"""Manifests that another host wrote: every value is known, or the manifest is refused by name, and nothing breaks."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from builder import images
from builder.cli import images as cli
from builder.clones import record, request
from builder.clones.request import CloneRequest
from builder.errors import VerifyError
from builder.images import manifest as manifests
from builder.images import vagrant
from builder.vm import domain_xml
from tests.command import Ran, builder
from tests.fakes.qcow2 import qcow2
from tests.hostile.manifests import lay, placed, written

__all__ = ["builder"]

Run = Callable[..., Ran]
DISK = b"disk"
GOOD = written(DISK)
VCPUS = "stages/verify/inputs/vcpus"
# A place in the manifest, a value that no builder writes there, and how the message names both.
BAD: list[tuple[str, object, str]] = [
    (VCPUS, "many", "says stages.verify.inputs.vcpus='many'"),
    (VCPUS, 10**9, "says stages.verify.inputs.vcpus=1000000000"),
    (VCPUS, 0, "says stages.verify.inputs.vcpus=0"),
    (VCPUS, True, "says stages.verify.inputs.vcpus=True"),
    ("stages/verify/inputs/memory", "2GiB", "says stages.verify.inputs.memory='2GiB'"),
    ("stages/verify/inputs/memory", 1 << 60, "says stages.verify.inputs.memory=1152921504606846976"),
    ("stages/verify/inputs/machine", "microvm", "says stages.verify.inputs.machine='microvm'"),
    ("stages/verify/inputs/devices", "usb", "says stages.verify.inputs.devices='usb'"),
    ("stages/verify/inputs/firmware", ["bios"], "says stages.verify.inputs.firmware=['bios']"),
    ("stages/verify/inputs", None, "says stages.verify.inputs=None"),
    ("stages", [], "says stages=[]"),
    ("stages/install/seconds", "long", "says stages.install.seconds='long'"),
    ("disk", "x", "says disk='x'"),
    ("disk/virtual_size", -1, "says disk.virtual_size=-1"),
    ("disk/virtual_size", 1 << 62, "says disk.virtual_size=4611686018427387904"),
    ("verified", "x", "says verified='x'"),
    ("verified/twins/twin-a/packages", {}, "says verified.twins.twin-a.packages={}"),
    ("verified/twins/twin-a/kernel", "k" * 5000, "says verified.twins.twin-a.kernel='kkk"),
    ("created", "yesterday", "says created='yesterday'"),
    ("created", "2026-11-29T23:44:41", "says created='2026-11-29T23:44:41'"),
    ("secrets_of", "../../../victim", "says secrets_of='../../../victim'"),
    ("recipe", "a\nb", r"says recipe='a\nb'"),
    ("rehearsal", "no", "says rehearsal='no'"),
    ("files/../../etc/shadow", None, "says 'files.../../etc/shadow'"),
    ("name", "other", "belongs to other@"),
]


def changed(place: str, value: object) -> dict[str, Any]:
    if place.startswith("files/"):
        file = {"size": len(qcow2(DISK)), "sha256": hashlib.sha256(qcow2(DISK)).hexdigest()}
        return GOOD | {"files": GOOD["files"] | {place.removeprefix("files/"): file}}
    return placed(GOOD, place, value)


def test_what_builder_writes_and_wrote_is_read(tmp_path: Path) -> None:
    lay(tmp_path, GOOD)
    image = images.load_image(tmp_path, "toy")
    assert image.facts.machine.memory == 2 << 30
    assert image.facts.verified.first.packages == ("aic94xx-firmware 0-1.rehearsal", "alsa-firmware 0-1.rehearsal")
    # An older builder wrote less, a newer one may write more.
    less = {key: GOOD[key] for key in ("name", "version", "created", "files")}
    more = placed(placed(GOOD, "stages/verify/inputs/tpm", "2.0"), "verified/twins/twin-a/mood", ["good"])
    for manifest in (less, more | {"future": {"deep": [1]}}):
        assert manifests.parse(json.dumps(manifest).encode(), "toy@1", "here").facts.machine.vcpus == 2


@pytest.mark.parametrize(("place", "value", "message"), BAD)
def test_an_unknown_value_is_named_with_its_file(
    builder: Run, tmp_path: Path, place: str, value: object, message: str
) -> None:
    folder = lay(tmp_path / "artifacts/images", changed(place, value))
    with pytest.raises(VerifyError) as caught:
        images.load_image(tmp_path / "artifacts/images", "toy")
    assert f"the manifest of toy@{folder.name} {message}" in caught.value.brief
    assert str(folder / "manifest.json") in caught.value.details
    (fault,) = images.verify_version(folder).faults
    assert message in fault
    listed = builder("images", "list")
    assert (listed.returncode, listed.stdout) == (0, "no images\n")
    assert message in listed.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("images", "show", "toy"),
        ("images", "diff", "toy", "good"),
        ("images", "export", "toy", "--format", "vagrant", "--output", "out.box"),
        ("images", "verify", "toy"),
        ("images", "push", "toy", "oci://127.0.0.1:9/toy"),
        ("clone", "toy", "web", "--no-start"),
    ],
)
def test_no_command_breaks_or_uses_it(builder: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    lay(tmp_path / "artifacts/images", changed(VCPUS, 10**9))
    lay(tmp_path / "artifacts/images", written(b"other", "good"), b"other", "good")
    done = builder(*words)
    assert (done.returncode, "says stages.verify.inputs.vcpus=1000000000" in done.stderr) == (6, True), done.stderr
    assert not (tmp_path / "out.box").exists()
    # The others are listed and used as ever.
    assert builder("images", "list").stdout.splitlines()[1].startswith("good ")


def test_a_latest_version_that_cannot_be_read_can_be_left(builder: Run, tmp_path: Path) -> None:
    catalogue = tmp_path / "artifacts/images"
    good = lay(catalogue, written(b"good"), b"good")
    lay(catalogue, changed("stages", []))
    assert builder("images", "rollback", "toy").returncode == 0
    assert images.load_image(catalogue, "toy").version == good.name


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"created": "\\ud800"}', b"9" * 5000, b"NaN"],
)
def test_no_manifest_at_all(builder: Run, tmp_path: Path, text: bytes) -> None:
    folder = lay(tmp_path / "artifacts/images", text)
    for words in (("show", "toy"), ("verify", "toy")):
        done = builder("images", *words)
        assert done.returncode == 6
        assert "internal error" not in done.stderr
    assert str(folder) in builder("images", "show", "toy", "--json").document()["error"]["details"]


def test_what_could_not_be_read_again_is_not_published(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(qcow2(DISK))
    long = {"verified": {"twins": {"twin-a": {"kernel": "k" * 5000}}}}
    with pytest.raises(VerifyError, match="kernel='kkk"):
        images.publish(tmp_path / "images", "toy", {"toy.qcow2": disk}, long)
    assert images.list_images(tmp_path / "images") == []
    assert not list((tmp_path / "images/toy").glob(".new-*"))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("\x1b]0;x\x07\n%(x)s#{`x`}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, path: str = "") -> list[str]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, f"{path}/{key}" if path else key)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("version")
    (made / "toy.qcow2").write_bytes(qcow2(DISK))
    return made


@given(changes=st.lists(st.tuples(st.sampled_from(places(GOOD)), VALUES), min_size=1, max_size=3))
@example(changes=[(VCPUS, 10**9)])
@example(changes=[("verified/twins", {"": {}})])
@examples(max_examples=150)
def test_whatever_a_manifest_says_it_is_refused_or_used_whole(folder: Path, changes: list[tuple[str, object]]) -> None:
    manifest = GOOD
    for place, value in changes:
        try:
            manifest = placed(manifest, place, value)
        except (TypeError, KeyError):
            continue
    try:
        read = manifests.parse(json.dumps(manifest).encode(), "toy@x", "here", ("toy", GOOD["version"]))
    except VerifyError:
        return
    image = images.Image("toy", GOOD["version"], folder, read.raw, read.facts, latest=True)
    assert images.compare(image, image).as_dict()["old"]["name"] == "toy"
    assert cli._difference_lines(images.compare(image, image))
    assert cli._facts(image)["size"] == image.size
    assert "\n" not in str(vagrant._machine(image)["machine"])
    domains: Any = types.SimpleNamespace(host=types.SimpleNamespace(uri="qemu:///session"))
    if image.facts.disk.virtual_size is not None:
        (vm,) = request.drafts(CloneRequest("web"), image, domains, [], accel="tcg", key=None)
        assert 1 <= vm.vcpus <= 255
        domain_xml.render(record.spec(vm, Path("/nowhere")))
