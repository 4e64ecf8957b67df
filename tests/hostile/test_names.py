"""A name belongs to where it came from, a signature to what was asked for, and a secret to what was built here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.cli import clone
from builder.errors import PublishError, VerifyError
from builder.images import Image
from builder.images import manifest as manifests
from builder.pipeline.resolve import resolve
from builder.provenance import dsse, sbom, statement
from builder.recipe import load
from builder.registry import artifact, push_pull
from builder.registry.client import RemoteManifest
from builder.settings import Settings
from builder.store.store import Store
from tests.command import Ran, builder
from tests.fakes.qcow2 import qcow2
from tests.hostile.manifests import lay, placed, sums, written
from tests.hostile.servers import limited
from tests.registry.conftest import Registry, pulled, pushed, repository, serving

__all__ = ["builder"]

Run = Callable[..., Ran]
SEALED = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One registry for all tests here; each has repositories of its own."""
    with serving(tmp_path_factory.mktemp("registry") / "registry") as found:
        yield found


@dataclass
class Notes:
    """What was said meanwhile."""

    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def beat(self, text: str) -> None:
        pass


def publish(folder: Path, text: str, name: str = "toy", key: Path | None = None, **facts: Any) -> Image:
    """Publish an image with bill and provenance; signed where there is a key."""
    disk, bill = folder / "disk", folder / "bill"
    folder.mkdir(exist_ok=True)
    content = qcow2(text.encode())
    disk.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    bill.write_bytes(sbom.render(name, sha256[:12], sha256, SEALED, []))

    def attest(subjects: Mapping[str, str]) -> bytes:
        about = [{"name": file, "digest": {"sha256": one}} for file, one in subjects.items()]
        told = {"_type": statement.STATEMENT, "predicateType": statement.PREDICATE, "subject": about}
        return dsse.close(json.dumps(told).encode(), key)

    return images.publish(folder / "images", name, {f"{name}.qcow2": disk, images.SBOM: bill}, facts, attest=attest)


def dated(image: Image, created: str, key: Path | None = None) -> Image:
    """The same image with another date, signed anew."""
    path = image.path
    for one in path.iterdir():
        one.chmod(0o644)
    told = json.loads((path / images.MANIFEST).read_bytes()) | {"created": created}
    (path / images.MANIFEST).write_text(json.dumps(told))
    subjects = [images.MANIFEST, images.SBOM, image.disk.name]
    about = [
        {"name": one, "digest": {"sha256": hashlib.sha256((path / one).read_bytes()).hexdigest()}} for one in subjects
    ]
    told = {"_type": statement.STATEMENT, "predicateType": statement.PREDICATE, "subject": about}
    (path / images.PROVENANCE).write_bytes(dsse.close(json.dumps(told).encode(), key))
    sums(path)
    return images.load_image(path.parents[1], f"{image.name}@{image.version}")


@pytest.fixture
def key(builder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signing key that is trusted, also by what runs in this process."""
    assert builder("keys", "create").returncode == 0
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path / "home/.config/builder/signing/default.key"


# -- names


def test_a_stranger_with_a_local_name_does_not_become_its_latest(
    registry: Registry, builder: Run, tmp_path: Path
) -> None:
    mine = publish(tmp_path / "artifacts", "mine")
    theirs = publish(tmp_path / "there", "theirs")
    address = registry.address(repository="tools/hello-world")
    pushed(theirs, address)
    done = builder("images", "pull", address)
    assert done.returncode == 0, done.stderr
    assert "--replace moves it" in " ".join(done.stderr.split())
    catalogue = tmp_path / "artifacts/images"
    assert images.load_image(catalogue, "toy").version == mine.version
    found = images.load_image(catalogue, f"toy@{theirs.version}")
    assert (found.origin, mine.origin) == (address.removeprefix("oci://"), images.LOCAL)
    assert f"origin   {address}" in builder("images", "show", f"toy@{theirs.version}").stdout
    # Again, and as a clone's image: the name stays.
    assert builder("images", "pull", address).returncode == 0
    settings = Settings(artifacts=tmp_path / "artifacts", recipes=(), templates=())
    spec = clone._pulled(settings, address, signed=False, allow_rehearsal=False, as_json=False)
    assert spec == f"toy@{theirs.version}"
    assert images.load_image(catalogue, "toy").version == mine.version
    # What is built here next moves it; so does the user's own word, and from then on it is that repository's.
    newer = publish(tmp_path / "artifacts", "newer")
    assert images.load_image(catalogue, "toy").version == newer.version
    assert builder("images", "pull", address, "--replace").returncode == 0
    assert images.load_image(catalogue, "toy").version == theirs.version
    next_one = publish(tmp_path / "there", "their next")
    pushed(next_one, address)
    assert builder("images", "pull", address).returncode == 0
    assert images.load_image(catalogue, "toy").version == next_one.version


def test_a_stranger_is_neither_rolled_back_to_nor_pushes_out_what_is_here(registry: Registry, tmp_path: Path) -> None:
    here, address = tmp_path / "here", registry.address(repository="stranger/toy")
    old = dated(publish(here, "old"), "2026-01-01T00:00:00+00:00")
    latest = dated(publish(here, "latest"), "2026-02-01T00:00:00+00:00")
    pushed(dated(publish(tmp_path / "there", "theirs"), "2026-01-15T00:00:00+00:00"), address)
    pulled(here / "images", address)
    assert [image.origin == images.LOCAL for image in images.list_images(here / "images")] == [True, False, True]
    assert images.previous(here / "images", "toy").version == old.version
    (gone,) = images.prune(here / "images", ["toy"], 2).removed
    assert gone.origin == address.removeprefix("oci://")
    assert images.load_image(here / "images", "toy").version == latest.version


def test_an_origin_is_recorded_and_not_believed(registry: Registry, tmp_path: Path) -> None:
    address = registry.address(repository="liar/toy")
    pushed(publish(tmp_path / "there", "theirs", origin="local", origins={"x": "local"}), address)
    assert pulled(tmp_path / "here", address).image.origin == address.removeprefix("oci://")


def test_a_manifest_with_unknown_values_does_not_enter(registry: Registry, builder: Run, tmp_path: Path) -> None:
    address = registry.address(repository="unknown/toy")
    image = publish(tmp_path / "there", "theirs")
    for one in image.path.iterdir():
        one.chmod(0o644)
    told = json.loads((image.path / images.MANIFEST).read_bytes())
    told["stages"] = {"verify": {"inputs": {"vcpus": 10**9}}}
    (image.path / images.MANIFEST).write_text(json.dumps(told))
    sums(image.path)
    pushed(image, address)
    for words in (("images", "pull", address), ("clone", address, "web", "--no-start")):
        done = builder(*words)
        assert done.returncode == 6, done.stderr
        assert f"the manifest of {address}" in done.stderr
        assert "says stages.verify.inputs.vcpus=1000000000" in " ".join(done.stderr.split())
    assert builder("images", "list").stdout == "no images\n"


@pytest.mark.parametrize("size", [10**400, 1 << 51, (16 << 20) + 1])
def test_a_file_beside_the_disk_is_not_large(tmp_path: Path, size: int) -> None:
    """Whoever verifies an image reads these files whole."""
    draft = artifact.draft(publish(tmp_path, "text"))
    told = json.loads(draft.content)
    next(layer for layer in told["layers"] if layer["annotations"][artifact.TITLE] == images.SUMS)["size"] = size
    with pytest.raises(PublishError, match="is no image that builder has pushed"):
        artifact.read(RemoteManifest(json.dumps(told).encode(), "", None), "oci://x/y")


def test_sums_that_are_no_text_are_not_pushed(tmp_path: Path) -> None:
    image = publish(tmp_path, "text")
    (image.path / images.SUMS).chmod(0o644)
    (image.path / images.SUMS).write_bytes(b"\xff\xfe")
    with pytest.raises(PublishError, match=r"SHA256SUMS of toy@.* is damaged"):
        artifact.draft(image)


VERIFY = """
import sys
from pathlib import Path
from builder import images
print(images.verify_version(Path(sys.argv[1])).faults)
"""


@pytest.mark.parametrize("name", [images.SUMS, images.SBOM, images.PROVENANCE, "verify.json"])
def test_a_large_file_beside_the_disk_takes_no_memory(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "here"
    image = publish(folder, "text")
    path = image.path / name
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(520 << 20)
    if name == "verify.json":
        manifest = image.path / images.MANIFEST
        told = json.loads(manifest.read_bytes())
        told["files"][name] = {"size": 1, "sha256": "0" * 64}
        manifest.chmod(0o644)
        manifest.write_text(json.dumps(told))
    assert f"{name}: it" in limited(VERIFY, str(image.path))


# -- secrets


RECIPE = """\
name: web
from: toy
provision: {scripts: [one.sh]}
"""


def resolved(folder: Path, **options: Any) -> str:
    (folder / "pipelines").mkdir(exist_ok=True)
    (folder / "provision").mkdir(exist_ok=True)
    (folder / "pipelines/web.yaml").write_text(RECIPE)
    (folder / "provision/one.sh").write_text("true\n")
    settings = Settings(
        artifacts=folder, recipes=(folder / "pipelines",), templates=(folder / "kickstarts",), **options
    )
    return resolve(load("web", {}, settings.recipes), None, Store(settings.store), settings).spec.secrets_of


def test_only_an_image_that_was_built_here_names_a_password(registry: Registry, tmp_path: Path) -> None:
    here = tmp_path / "here"
    address = registry.address(repository="evil/toy")
    pushed(publish(tmp_path / "there", "theirs", secrets_of="centos7-minimal", recipe="centos7-minimal"), address)
    pulled(here / "images", address)
    assert resolved(here) == "web"
    # The record of origins is lost: then the store has to know the disk.
    (here / "images/toy/.origins.json").unlink()
    assert resolved(here) == "web"
    publish(here, "mine", secrets_of="centos7-minimal")
    assert resolved(here) == "centos7-minimal"


def test_a_name_of_a_secret_leads_to_no_other_folder(tmp_path: Path) -> None:
    lay(tmp_path / "images", placed(written(b"disk"), "secrets_of", "../../../victim"))
    with pytest.raises(VerifyError, match=r"secrets_of='\.\./\.\./\.\./victim'"):
        resolved(tmp_path)
    assert not list(tmp_path.rglob("*.password"))


# -- signatures that have to be


def test_a_host_can_demand_signatures(registry: Registry, builder: Run, tmp_path: Path, key: Path) -> None:
    publish(tmp_path / "artifacts", "unsigned")
    pushed(publish(tmp_path / "there", "far", "far"), registry.address(repository="demand/far"))
    settings = tmp_path / "home/.config/builder/settings.toml"
    settings.write_text("[images]\nrequire_signed = true\n")
    for words in (
        ("clone", "toy", "web", "--no-start"),
        ("images", "pull", registry.address(repository="demand/far")),
        ("clone", registry.address(repository="demand/far"), "web", "--no-start"),
        ("images", "verify", "toy"),
    ):
        done = builder(*words)
        assert (done.returncode, "key that you trust" in " ".join(done.stderr.split())) == (6, True), done.stderr
    with pytest.raises(VerifyError, match="is not signed by a key that you trust"):
        resolved(tmp_path / "artifacts", require_signed=True)
    # The environment has the last word, and an option asks for the same once.
    assert builder("images", "verify", "toy", BUILDER_REQUIRE_SIGNED="0").returncode == 0
    settings.write_text("[images]\nrequire_signed = false\n")
    assert builder("images", "verify", "toy").returncode == 0
    assert builder("images", "verify", "toy", BUILDER_REQUIRE_SIGNED="1").returncode == 6
    assert builder("clone", "toy", "web", "--no-start", "--signed").returncode == 6
    assert builder("images", "list", BUILDER_REQUIRE_SIGNED="perhaps").returncode == 2
    signed = publish(tmp_path / "artifacts", "signed", key=key)
    assert images.require_signed(signed.path).signers == ("default",)
    assert resolved(tmp_path / "artifacts", require_signed=True) == "web"


def test_nothing_is_built_that_could_not_be_signed_where_it_has_to_be(builder: Run) -> None:
    done = builder("run", "small", BUILDER_REQUIRE_SIGNED="1")
    assert (done.returncode, "no key to sign with" in done.stderr) == (2, True)
    assert "no key to sign with" not in builder("plan", "small", BUILDER_REQUIRE_SIGNED="1").stderr


def test_a_changed_manifest_of_a_signed_image_is_not_signed(tmp_path: Path, key: Path) -> None:
    image = publish(tmp_path / "here", "signed", key=key)
    manifest = image.path / images.MANIFEST
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"created": "202', '"created": "201'))
    (image.path / images.SUMS).chmod(0o644)
    sums(image.path)
    with pytest.raises(VerifyError, match="is not signed"):
        images.require_signed(image.path)


def test_signed_is_what_was_asked_for(registry: Registry, tmp_path: Path, key: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    address = registry.address(repository="signed/toy")
    new = dated(publish(there, "new", key=key), "2026-06-01T00:00:00+00:00", key)
    old = dated(publish(tmp_path / "before", "old", key=key), "2026-01-01T00:00:00+00:00", key)
    other = publish(tmp_path / "other", "other", "other", key=key)
    pushed(new, address)
    assert pulled(here, address, signed=True).image.latest
    # Another image of the same key, under this address.
    pushed(other, f"{address}:swapped")
    with pytest.raises(VerifyError, match=f"is other@{other.version}, and not an image named toy"):
        pulled(here, f"{address}:swapped", signed=True)
    with pytest.raises(VerifyError, match="and not an image named toy"):
        pulled(here, f"{address}:swapped", name="toy")
    assert pulled(here, f"{address}:swapped", signed=True, name="other").image.name == "other"
    # An older one under the tag that moves, and under the tag of another version.
    pushed(old, f"{address}:latest")
    with pytest.raises(VerifyError, match=f"toy@{old.version} of 2026-01-01 is older than toy@{new.version}"):
        pulled(here, address, signed=True)
    pushed(old, f"{address}:{'0' * 12}")
    with pytest.raises(VerifyError, match=f"and not version {'0' * 12}"):
        pulled(here, f"{address}:{'0' * 12}")
    # By its own version it is had, and said to be older.
    notes = Notes()
    with repository(f"{address}:{old.version}") as found:
        assert not push_pull.pull(found, here, notes, signed=True).image.latest
    assert any("is older than" in line for line in notes.notes)


# -- clocks


def test_a_date_in_the_future_makes_nothing_newer(registry: Registry, tmp_path: Path) -> None:
    here, address = tmp_path / "here", registry.address(repository="clock/toy")
    ahead = dated(publish(tmp_path / "there", "ahead"), "2099-01-01T00:00:00+00:00")
    now = publish(here, "now")
    assert pushed(ahead, address).tags == (ahead.version, "latest")
    assert pushed(now, address).tags == (now.version, "latest")
    pulled(here / "images", f"{address}:{ahead.version}")
    assert [image.version for image in images.list_images(here / "images")] == [now.version, ahead.version]
    # Of a clock that is a little ahead nothing is held against.
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat(timespec="seconds")
    assert manifests.Manifest.model_validate_json(json.dumps(written(b"x") | {"created": soon})).credible


# -- provenance


def verified(image: Image) -> tuple[str, ...]:
    for one in image.path.iterdir():
        one.chmod(0o644)
    sums(image.path)
    return images.verify_version(image.path).faults


def test_a_statement_that_was_taken_away_is_missed(tmp_path: Path, key: Path) -> None:
    image = publish(tmp_path / "here", "signed", key=key, builder="0.1.0")
    assert verified(image) == ()
    (image.path / images.PROVENANCE).unlink()
    assert verified(image) == (
        f"{images.PROVENANCE}: it is missing: the builder that made this image always writes one",
    )


@pytest.mark.parametrize("what", ["_type", "predicateType"])
def test_a_statement_of_something_else_is_none(tmp_path: Path, key: Path, what: str) -> None:
    image = publish(tmp_path / "here", "signed", key=key)
    payload = json.loads(dsse.open_((image.path / images.PROVENANCE).read_bytes(), []).payload)
    payload[what] = "https://in-toto.io/attestation/test-result/v0.1"
    (image.path / images.PROVENANCE).chmod(0o644)
    (image.path / images.PROVENANCE).write_bytes(dsse.close(json.dumps(payload).encode(), key))
    assert f"{images.PROVENANCE}: it is not a signed statement of provenance" in verified(image)
    with pytest.raises(VerifyError):
        images.require_signed(image.path)


@pytest.mark.parametrize("name", [images.MANIFEST, images.PROVENANCE])
def test_sums_that_leave_something_out_are_not_good(tmp_path: Path, name: str) -> None:
    image = publish(tmp_path / "here", "text")
    path = image.path / images.SUMS
    path.chmod(0o644)
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if not line.endswith(f"  {name}")))
    assert f"{images.SUMS}: it does not name {name}" in images.verify_version(image.path).faults
