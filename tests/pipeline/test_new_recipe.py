"""`builder recipes new`: a recipe with the ISO's own sha256, written only where it can be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import recipe
from builder.errors import BuilderError, MediumError, RecipeError
from builder.pipeline import new_recipe
from builder.pipeline.resolve import resolve
from builder.releases import RELEASES
from builder.settings import Settings
from builder.store.store import Store
from builder.system.digests import sha256_file
from tests.fakes import el, vendor
from tests.fakes.media import Press

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings(tmp_path / "artifacts", (tmp_path / "pipelines", ROOT / "pipelines"), (ROOT / "kickstarts",))


@pytest.fixture(scope="module")
def rocky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small medium under the name of the vendor's."""
    folder = tmp_path_factory.mktemp("rocky")
    return el.dvd(folder).rename(folder / "Rocky-9.8-x86_64-minimal.iso")


def test_what_is_written_is_a_recipe_that_accepts_the_file(settings: Settings, rocky: Path) -> None:
    made = new_recipe.write("web9", RELEASES["el9"], rocky, settings, force=False)
    assert made.path == Path("pipelines/web9.yaml")
    loaded = recipe.load("web9", {}, settings.recipes)
    assert (loaded.release, loaded.delivery, loaded.has_medium) == ("el9", "seed", True)
    (source,) = loaded.media.sources
    assert source.sha256 == made.sha256 == sha256_file(rocky)
    # The mirrors that a shipped recipe knows of this file.
    assert source.urls[0].endswith("/9/isos/x86_64/Rocky-9.8-x86_64-minimal.iso")
    resolved = resolve(loaded, str(rocky), Store(settings.store), settings, peek=True)
    assert resolved.spec.medium.sha256 == made.sha256


def test_an_iso_that_no_mirror_gives_is_named_by_its_sum_alone(settings: Settings, rocky: Path, tmp_path: Path) -> None:
    (tmp_path / "rhel-9.6-x86_64-dvd.iso").hardlink_to(rocky)
    new_recipe.write("rhel9", RELEASES["el9"], tmp_path / "rhel-9.6-x86_64-dvd.iso", settings, force=False)
    (source,) = recipe.load("rhel9", {}, settings.recipes).media.sources
    assert source.urls == ()


CLOUD = ("cloud-init", "cloud-utils-growpart", "qemu-guest-agent")


def test_a_recipe_like_another_has_all_of_it_but_name_and_medium(settings: Settings, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    el.repository(tree / "BaseOS", ["bash", *el.PACKAGES])
    el.repository(tree / "AppStream", list(CLOUD), groups=False)
    (tree / ".treeinfo").write_text(
        el.treeinfo("Rocky Linux 9.8", "9.8", {name: name for name in ("BaseOS", "AppStream")})
    )
    iso = el.press(tree, tmp_path / "Rocky-9.8-x86_64-dvd.iso")
    new_recipe.write("cloud9", RELEASES["el9"], iso, settings, like="rocky9-cloud", force=False)
    made, model = (recipe.load(name, {}, settings.recipes) for name in ("cloud9", "rocky9-cloud"))
    (source,) = made.media.sources
    assert source.sha256 == sha256_file(iso)
    assert source.urls == model.media.sources[0].urls
    assert made.kickstart.vars["packages"] == CLOUD
    assert made.model_copy(update={"name": model.name, "media": model.media}) == model
    text = Path("pipelines/cloud9.yaml").read_text()
    assert text.startswith("# Rocky Linux 9.8: as rocky9-cloud")
    assert "has not been run" not in text
    assert "# A copy's root grows to the disk that it gets." in text


def test_a_recipe_like_one_without_an_iso_is_refused(settings: Settings, rocky: Path) -> None:
    Path("pipelines").mkdir()
    Path("pipelines/upon.yaml").write_text("name: upon\nrelease: el9\nfrom: {image: rocky9-minimal}\n")
    with pytest.raises(RecipeError, match="upon installs from no ISO"):
        new_recipe.write("web9", RELEASES["el9"], rocky, settings, like="upon", force=False)


def test_a_recipe_like_one_whose_packages_the_iso_lacks_is_refused(settings: Settings, rocky: Path) -> None:
    with pytest.raises(BuilderError) as caught:
        new_recipe.write("cloud9", RELEASES["el9"], rocky, settings, like="rocky9-cloud", force=False)
    assert "package cloud-init is not on the medium" in (caught.value.details or "")
    assert not Path("pipelines").exists()


def test_a_recipe_that_is_there_stays_unless_it_is_to_be_replaced(settings: Settings, rocky: Path) -> None:
    Path("pipelines").mkdir()
    Path("pipelines/web9.yaml").write_text("mine\n")
    with pytest.raises(RecipeError, match="exists already"):
        new_recipe.write("web9", RELEASES["el9"], rocky, settings, force=False)
    assert Path("pipelines/web9.yaml").read_text() == "mine\n"
    new_recipe.write("web9", RELEASES["el9"], rocky, settings, force=True)
    assert recipe.load("web9", {}, settings.recipes).release == "el9"


@pytest.mark.parametrize("name", ["", "..", "a/b", "UPPER", "x" * 64, "a-rehearsal"])
def test_a_name_that_no_recipe_can_have_is_refused(settings: Settings, rocky: Path, name: str) -> None:
    with pytest.raises(RecipeError):
        new_recipe.write(name, RELEASES["el9"], rocky, settings, force=False)
    assert not list(Path().glob("**/*.yaml"))


def refused(settings: Settings, file: Path, release: str = "el9") -> BuilderError:
    with pytest.raises(BuilderError) as caught:
        new_recipe.write("web9", RELEASES[release], file, settings, force=False)
    assert not Path("pipelines").exists()
    return caught.value


def test_a_damaged_iso_is_refused(settings: Settings, rocky: Path, tmp_path: Path) -> None:
    data = bytearray(rocky.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.iso").write_bytes(data)
    assert "is damaged" in str(refused(settings, tmp_path / "bad.iso"))


def test_an_iso_of_another_release_is_refused(settings: Settings, rocky: Path) -> None:
    fault = refused(settings, rocky, "el10")
    assert isinstance(fault, MediumError)
    assert str(fault) == "the medium is Rocky Linux 9.8, the recipe says release: el10"


def test_an_iso_without_the_packages_is_refused(settings: Settings, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    el.repository(tree / "BaseOS", [name for name in el.PACKAGES if name != "parted"])
    (tree / ".treeinfo").write_text(el.treeinfo("Rocky Linux 9.8", "9.8", {"BaseOS": "BaseOS"}))
    assert "package parted is not on the medium" in str(refused(settings, el.press(tree, tmp_path / "a.iso")))
    (tree / "BaseOS").rename(tree / "Elsewhere")
    assert "a network-install medium, no packages" in str(refused(settings, el.press(tree, tmp_path / "boot.iso")))


def test_an_iso_without_a_checksum_and_a_rehearsal_are_refused(settings: Settings, press: Press) -> None:
    plain = vendor.Shape(bios=False, uefi=False, hybrid="", implanted=False)
    assert "no checksum is implanted" in str(refused(settings, press(plain), "el7"))
    marked = vendor.Shape(application="BUILDER REHEARSAL 1")
    assert "is a rehearsal medium" in str(refused(settings, press(marked), "el7"))
