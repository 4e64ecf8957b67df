"""Provisioning: what a recipe may contain, what it is built on, and that what is used is what was hashed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from builder import images
from builder.errors import InstallError, PublishError, RecipeError
from builder.guest import ansible
from builder.pipeline.pipelines import ON_BASE, PROVISIONED, STAGES, stages_of
from builder.pipeline.plan import plan
from builder.pipeline.resolve import resolve
from builder.recipe import Recipe, load, provision_files
from builder.settings import Settings
from builder.stages import provision, provisioning
from builder.stages.machine_inputs import GENERALISE
from builder.store.store import Store

pytestmark = pytest.mark.unit

WEB = """\
name: web
from: base
provision:
  files: [{source: motd, path: /etc/motd}]
  scripts: [web.sh]
  playbook: site/playbook.yml
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A folder with one recipe, what it provisions with, and the image that it is built on."""
    for name, text in {
        "pipelines/web.yaml": WEB,
        "provision/motd": "welcome\n",
        "provision/web.sh": "#!/bin/sh\n",
        "provision/site/playbook.yml": "[]\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    found = Settings(tmp_path / "artifacts", (tmp_path / "pipelines",), (), root_password_file=password)
    publish(found, "base", b"one")
    return found


def publish(settings: Settings, name: str, text: bytes, **more: object) -> images.Image:
    disk = settings.artifacts.parent / "disk"
    disk.write_bytes(text)
    image = images.publish(settings.images, name, {f"{name}.qcow2": disk}, {"recipe": "base", **more})
    disk.unlink()
    return image


def digests(settings: Settings, media: str | None = None) -> dict[str, str]:
    """Of each stage as it would be run now."""
    recipe = load("web", {}, settings.recipes)
    store = Store(settings.store)
    spec = resolve(recipe, media, store, settings).spec
    return {step.stage.name: step.digest for step in plan(stages_of(recipe), spec, store, settings).steps}


def test_a_recipe_installs_or_builds_on_an_image(tmp_path: Path, recipe_text: str) -> None:
    def faults(text: str) -> str:
        (tmp_path / "small.yaml").write_text(text)
        with pytest.raises(RecipeError) as caught:
            load("small", {}, (tmp_path,))
        return caught.value.details

    both = faults(f"{recipe_text}\nfrom: base\n")
    assert "media: has no use beside from: base" in both
    assert "kickstart: has no use beside from: base" in both
    neither = faults("name: small\n")
    assert "media: is missing" in neither
    assert "kickstart: is missing" in neither
    assert "from: 'Base' is no image: NAME or NAME@VERSION" in faults("name: small\nfrom: Base\n")
    assert "'a-rehearsal' is a rehearsal" in faults("name: small\nfrom: a-rehearsal\n")
    assert "did you mean 'from'?" in faults("name: small\nfrm: base\n")


@pytest.mark.parametrize("source", ["../secret", "/etc/passwd", "a/../b", "", ".hidden", "a b"])
def test_a_source_stays_below_its_folder(source: str) -> None:
    with pytest.raises(ValueError, match="is no source"):
        Recipe.model_validate({"name": "web", "from": "base", "provision": {"scripts": [source]}})


@pytest.mark.parametrize("path", ["etc/motd", "/etc/../root", "/a'b", "/etc/$(id)", "/", "/etc/"])
def test_a_path_in_the_guest_is_a_plain_one(path: str) -> None:
    with pytest.raises(ValueError, match="is no absolute path"):
        Recipe.model_validate(
            {"name": "web", "from": "base", "provision": {"files": [{"source": "motd", "path": path}]}}
        )


def test_the_pipeline_has_the_stages_that_the_recipe_needs(settings: Settings, recipe_text: str) -> None:
    (settings.recipes[0] / "small.yaml").write_text(recipe_text)
    small = load("small", {}, settings.recipes)
    assert stages_of(small) == STAGES
    assert stages_of(load("small", {"provision.scripts": "[web.sh]"}, settings.recipes)) == PROVISIONED
    assert stages_of(load("web", {}, settings.recipes)) == ON_BASE
    assert [stage.name for stage in ON_BASE] == ["provision", "seal", "verify", "publish"]


def test_contents_decide_and_nothing_else(settings: Settings) -> None:
    before = digests(settings)
    folder = settings.provisions[0]
    (folder / "motd").touch()
    (folder / "unused").write_text("no part of it")
    assert digests(settings) == before
    for name in ("motd", "web.sh", "site/playbook.yml"):
        was = (folder / name).read_text()
        (folder / name).write_text(f"{was}# changed\n")
        assert digests(settings)["provision"] != before["provision"]
        (folder / name).write_text(was)
    (folder / "site" / "roles").mkdir()
    (folder / "site" / "roles" / "new.yml").write_text("[]\n")
    assert digests(settings)["seal"] != before["seal"]


def test_another_base_is_another_image(settings: Settings) -> None:
    before = digests(settings)
    publish(settings, "base", b"two")
    after = digests(settings)
    assert all(after[name] != before[name] for name in after)


def test_a_rehearsal_is_built_on_a_rehearsal(settings: Settings) -> None:
    with pytest.raises(PublishError, match="there is no image base-rehearsal"):
        digests(settings, "rehearsal")
    publish(settings, "base-rehearsal", b"three", rehearsal=True)
    recipe = load("web", {}, settings.recipes)
    spec = resolve(recipe, "rehearsal", Store(settings.store), settings).spec
    assert spec.name == "web-rehearsal"
    assert spec.base is not None
    assert spec.base.spec.startswith("base-rehearsal@")
    with pytest.raises(RecipeError, match=r"has no use for --media some\.iso"):
        resolve(recipe, "some.iso", Store(settings.store), settings)


def test_the_password_is_the_one_of_the_image_at_the_bottom(settings: Settings) -> None:
    publish(settings, "base", b"four", secrets_of="deeper")
    spec = resolve(load("web", {}, settings.recipes), None, Store(settings.store), settings).spec
    assert spec.secrets_of == "deeper"


def test_what_is_missing_or_no_plain_file_is_told(settings: Settings) -> None:
    folder = settings.provisions[0]
    (folder / "web.sh").unlink()
    with pytest.raises(RecipeError, match=r"provisions with web\.sh, which is not there"):
        digests(settings)
    (folder / "web.sh").write_text("#!/bin/sh\n")
    (folder / "site" / "link").symlink_to("/etc/passwd")
    with pytest.raises(RecipeError, match="neither a file nor a folder"):
        digests(settings)


def test_what_is_used_is_what_was_hashed(settings: Settings, tmp_path: Path) -> None:
    hashed = provision_files.collect(["motd", "site"], settings.provisions)
    for name in hashed:
        provision_files.take(name, hashed[name], settings.provisions, tmp_path / "good" / name)
    assert (tmp_path / "good" / "motd").read_text() == "welcome\n"
    (settings.provisions[0] / "site" / "playbook.yml").write_text("- other\n")
    with pytest.raises(RecipeError, match="was changed while the run was under way"):
        provision_files.take("site", hashed["site"], settings.provisions, tmp_path / "bad")


def test_the_playbook_gets_host_key_and_host_key_of_the_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "ansible-playbook"
    program.write_text('#!/bin/sh\nset -e\necho "in $(basename "$PWD"): $3"\ncat "$2"\n[ "$3" != bad.yml ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    tree = tmp_path / "site"
    tree.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    said = ansible.play(tree, "good.yml", port=2222, key=work / "key", host_key="ssh-ed25519 AAAA", work=work)
    assert said.startswith("in site: good.yml\nmachine ansible_host=127.0.0.1 ansible_port=2222 ansible_user=root ")
    assert f"ansible_ssh_private_key_file={work / 'key'}" in said
    assert "StrictHostKeyChecking=yes" in said
    assert (work / "known_hosts").read_text() == "[127.0.0.1]:2222 ssh-ed25519 AAAA\n"
    with pytest.raises(InstallError, match=r"playbook site/bad\.yml failed \(exit status 1\)"):
        ansible.play(tree, "bad.yml", port=1, key=work / "key", host_key="x", work=work)


def test_the_generalise_script_is_posix_and_enters_the_digest(settings: Settings) -> None:
    subprocess.run(["sh", "-n", GENERALISE], check=True)
    spec = resolve(load("web", {}, settings.recipes), None, Store(settings.store), settings).spec
    given = provision.inputs(spec)
    assert provisioning.DONE in GENERALISE.read_text()
    assert len(given.generalise) == 64
    # Nothing of the host's is in what is hashed.
    assert str(settings.artifacts.parent) not in json.dumps(given.model_dump(mode="json"))
