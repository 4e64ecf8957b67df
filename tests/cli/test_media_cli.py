"""The media commands: real runs of `python -m builder` on a small medium of the vendor's shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.iso import inspect
from tests.command import Ran
from tests.fakes import iso_readers as readers
from tests.fakes import vendor

pytestmark = pytest.mark.unit

Run = Callable[..., Ran]
KICKSTART = "cdrom\nignoredisk --only-use=vda\nclearpart --all\npoweroff\n"


@pytest.fixture(scope="module")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("medium")
    (folder / "tree").mkdir()
    vendor.tree(folder / "tree", vendor.Shape())
    return vendor.press(folder / "tree", folder / "medium.iso", vendor.Shape())


@pytest.fixture
def medium(tmp_path: Path, pressed: Path) -> Path:
    """A medium of one's own in the working directory."""
    path = tmp_path / "medium.iso"
    path.write_bytes(pressed.read_bytes())
    return path


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    """A medium with repodata: the package bash and the group core."""
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, vendor.Shape())
    vendor.repodata(tree, ["bash"])
    return vendor.press(tree, tmp_path / "listing.iso", vendor.Shape())


@pytest.fixture
def ks(tmp_path: Path) -> Path:
    path = tmp_path / "ks.cfg"
    path.write_text(KICKSTART)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_media_and_no_files(builder: Run, tmp_path: Path) -> None:
    assert builder("media", "list").stdout == "no media\n"
    assert builder("media", "list", "--json").document() == []
    assert not (tmp_path / "artifacts").exists()


def test_a_medium_is_taken_in_once_and_found_by_a_run(
    builder: Run, medium: Path, pipelines: Path, recipe_text: str, tmp_path: Path
) -> None:
    digest = sha256(medium)
    (pipelines / "small.yaml").write_text(recipe_text.replace("ab" * 32, digest))
    (tmp_path / "kickstarts").mkdir()
    (tmp_path / "kickstarts" / "small.ks.j2").write_text("cdrom\ntimezone {{ timezone }}\n")
    said = builder("media", "add", "medium.iso")
    assert said.returncode == 0, said.stderr
    assert f"sha256   {digest}\n" in said.stdout
    assert "for      small\n" in said.stdout
    again = builder("media", "add", "medium.iso", "--json").document()
    assert (again["how"], again["pipelines"]) == ("there already", ["small"])
    assert sha256(Path(again["path"])) == digest
    (row,) = builder("media", "list", "--json").document()
    assert (row["sha256"], row["pipelines"], row["is_rehearsal"]) == (digest, ["small"], False)
    listed = builder("media", "list").stdout.splitlines()
    assert listed[1].split()[:3] == ["CentOS", "7", "x86_64"]
    assert max(map(len, listed)) <= 80
    plan = {step["stage"]: step for step in builder("plan", "small", "--json").document()["stages"]}
    assert plan["fetch"]["action"] == "reuse"


def test_a_medium_that_no_pipeline_names_is_taken_in_and_said_to_be_so(builder: Run, medium: Path) -> None:
    said = builder("media", "add", "medium.iso").stdout
    assert "for      no pipeline names it\n" in said
    assert "media.sources" in said


def test_inspect_tells_what_it_is(builder: Run, medium: Path) -> None:
    told = builder("media", "inspect", "medium.iso").stdout
    for line in (
        "volume   CentOS 7 x86_64",
        "product  CentOS-7 7 x86_64",
        "from CD  BIOS (/isolinux/isolinux.bin), UEFI (/images/efiboot.img)",
        "as disk  MBR, GPT",
    ):
        assert f"{line}\n" in told
    assert builder("media", "inspect", "medium.iso", "--json").document()["truncated"] is False


def test_verify_believes_the_implanted_sum_and_nothing_else(builder: Run, medium: Path) -> None:
    assert builder("media", "verify", "medium.iso", "--json").document()["md5_verdict"] == "good"
    at = medium.read_bytes().index(bytes([3]) * 4096)
    with medium.open("r+b") as file:
        file.seek(at)
        file.write(b"!")
    done = builder("media", "verify", "medium.iso")
    assert done.returncode == 4
    assert "does not fit the checksum implanted in it" in done.stderr


def test_nothing_vouches_for_a_medium_without_sum_and_recipe(
    builder: Run, tmp_path: Path, pipelines: Path, recipe_text: str
) -> None:
    shape = vendor.Shape(implanted=False, uefi=False, hybrid="")
    (tmp_path / "tree").mkdir()
    vendor.tree(tmp_path / "tree", shape)
    medium = vendor.press(tmp_path / "tree", tmp_path / "bare.iso", shape)
    assert builder("media", "verify", "bare.iso").returncode == 4
    (pipelines / "small.yaml").write_text(recipe_text.replace("ab" * 32, sha256(medium)))
    assert builder("media", "verify", "bare.iso").returncode == 0


@pytest.mark.parametrize("command", ["inspect", "add", "verify", "inject"])
def test_bad_media_exit_4_with_one_clear_line(
    builder: Run, medium: Path, ks: Path, tmp_path: Path, command: str
) -> None:
    more = ("--kickstart", "ks.cfg", "--output", "new.iso") if command == "inject" else ()
    (tmp_path / "short.iso").write_bytes(medium.read_bytes()[:1_000_000])
    (tmp_path / "text.iso").write_text("<html>not found</html>")
    (tmp_path / "folder.iso").mkdir()
    for name, words in (
        ("short", "is truncated"),
        ("text", "is not an ISO 9660 image"),
        ("none", "no such file"),
        ("folder", "not a file"),
    ):
        done = builder("media", command, f"{name}.iso", *more)
        assert (done.returncode, done.stdout) == (4, "")
        assert words in done.stderr.splitlines()[0]
        assert len(done.stderr.splitlines()[0]) <= 80
    assert builder("media", command, "none.iso", *more, "--json").document()["error"]["exit_code"] == 4
    assert not (tmp_path / "new.iso").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.iso", "no such file: none.iso"),
        ("folder", "not a file: folder"),
        ("short.iso", "short.iso is truncated: 1000000 of "),
        ("text.iso", "text.iso is not an ISO 9660 image"),
        ("medium.iso", "medium.iso is not a medium that the recipe small names"),
    ],
)
def test_a_run_takes_no_other_medium(
    builder: Run, medium: Path, pipelines: Path, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "kickstarts").mkdir()
    (tmp_path / "kickstarts" / "small.ks.j2").write_text("timezone {{ timezone }}\npart / --size=1000\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "short.iso").write_bytes(medium.read_bytes()[:1_000_000])
    (tmp_path / "text.iso").write_text("<html>not found</html>")
    done = builder("plan", "small", "--media", name)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {said}")


def test_inject_is_safe_by_default(builder: Run, medium: Path, ks: Path, tmp_path: Path) -> None:
    before = sha256(medium)
    done = builder("media", "inject", "medium.iso", "--kickstart", "ks.cfg", "--output", "new.iso")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "menu     boots from the local disk" in done.stdout
    assert "everything on the disks vda" in done.stdout
    new = tmp_path / "new.iso"
    assert readers.sound_md5(new)
    assert readers.complaints(new) == []
    assert inspect.read_file(new, "/ks.cfg").decode() == KICKSTART
    for menu in ("/isolinux/isolinux.cfg", "/EFI/BOOT/grub.cfg"):
        assert b"ERASES DISKS" in inspect.read_file(new, menu)
    assert sha256(medium) == before


def test_inject_unattended_says_what_will_be_lost(builder: Run, medium: Path, ks: Path) -> None:
    words = ["media", "inject", "medium.iso", "--kickstart", "ks.cfg", "--output", "new.iso", "--unattended"]
    said = builder(*words).stdout
    assert "WARNING" in said
    assert said.endswith("everything on the disks vda\n")
    document = json.loads(builder(*words, "--json").stdout)
    assert (document["unattended"], document["erases"]) == (True, "everything on the disks vda")
    assert document["boots"] == ["bios", "uefi"]


def test_inject_does_not_vouch_for_what_is_damaged(builder: Run, medium: Path, ks: Path, tmp_path: Path) -> None:
    at = medium.read_bytes().index(bytes([3]) * 4096)
    with medium.open("r+b") as file:
        file.seek(at)
        file.write(b"!")
    done = builder("media", "inject", "medium.iso", "--kickstart", "ks.cfg", "--output", "new.iso")
    assert done.returncode == 4
    assert "does not fit the checksum implanted in it" in done.stderr
    assert not (tmp_path / "new.iso").exists()


def test_inject_looks_for_the_packages_on_the_medium(builder: Run, listing: Path, ks: Path) -> None:
    words = ["media", "inject", listing.name, "--kickstart", "ks.cfg", "--output", "new.iso"]
    ks.write_text(f"{KICKSTART}%packages\n@core\nbash\nbahs\n%end\n")
    done = builder(*words)
    assert done.returncode == 2
    assert "line 8: package bahs is not on the medium; did you mean bash?" in done.stderr
    # Where they come from a mirror, the medium need not have them.
    ks.write_text(ks.read_text().replace("cdrom", "url --url=http://mirror.invalid/os"))
    assert builder(*words).returncode == 0


@pytest.mark.parametrize(
    ("text", "output", "said"),
    [
        ("cdrom\nnonsense\n", "new.iso", "ks.cfg: line 2: Unknown command: nonsense"),
        ("cdrom\r\npoweroff\r\n", "new.iso", "DOS line endings"),
        ("cdrom\n", "medium.iso", "is the file that is read"),
        ("cdrom\n", "none/new.iso", "there is no folder none"),
        # A device's node must not be replaced by a file.
        ("cdrom\n", "/dev/null", "--output /dev/null is not a file"),
        ("cdrom\n", ".", "--output . is not a file"),
    ],
)
def test_inject_refuses(builder: Run, medium: Path, ks: Path, text: str, output: str, said: str) -> None:
    ks.write_bytes(text.encode())
    done = builder("media", "inject", "medium.iso", "--kickstart", "ks.cfg", "--output", output)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_rehearsal_medium_replaces_no_file(builder: Run, medium: Path, tmp_path: Path) -> None:
    for words, said in (
        (["--output", "medium.iso"], "--output medium.iso exists already"),
        (["--output", ".", "--force"], "--output . exists already"),
        (["--output", "missing/new.iso"], "there is no folder missing"),
    ):
        done = builder("media", "rehearsal", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "artifacts").exists()
