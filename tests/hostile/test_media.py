"""Install media, lists and signatures that are made to break who reads them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import MediumError
from builder.iso import inspect, repodata
from builder.iso import remaster as iso
from builder.iso.unpack import UnpackError, unpack
from builder.media.gpg import signed_text
from builder.system.process import run
from tests.command import Ran, builder
from tests.fakes import vendor
from tests.hostile.servers import limited
from tests.media.test_gpg import Signer, make_signer

__all__ = ["builder"]
INSPECT = """
import sys
from pathlib import Path
from builder.errors import MediumError
from builder.iso import inspect, repodata
try:
    print(inspect.contents(Path(sys.argv[1])))
except MediumError as fault:
    print(fault.brief, fault.details)
"""
PIECE = 64 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    vendor.tree(folder, vendor.Shape())
    vendor.repodata(folder, ["bash"])
    return folder


@pytest.fixture(scope="module")
def medium(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vendor.press(tree, tmp_path_factory.mktemp("medium") / "medium.iso", vendor.Shape())


def changed(medium: Path, target: Path, *changes: tuple[int, bytes]) -> Path:
    data = bytearray(medium.read_bytes())
    for at, new in changes:
        data[at : at + len(new)] = new
    target.write_bytes(data)
    return target


def without_names(medium: Path, target: Path) -> Path:
    """A record without the Rock Ridge extensions that all others have: pycdlib asks them of None."""
    places = [found.start() for found in re.finditer(rb"RR\x05", medium.read_bytes())]
    return changed(medium, target, (places[2], b"\0\0\0"))


def test_every_media_command_ends_with_the_mediums_own_error(
    builder: Callable[..., Ran], medium: Path, tmp_path: Path
) -> None:
    bad = without_names(medium, tmp_path / "bad.iso")
    (tmp_path / "ks.cfg").write_text("cdrom\nignoredisk --only-use=vda\nclearpart --all\npoweroff\n")
    for words in (
        ("inspect", bad),
        ("add", bad),
        ("verify", bad),
        ("inject", bad, "--kickstart", tmp_path / "ks.cfg", "--output", "x.iso"),
    ):
        done = builder("media", *map(str, words))
        assert done.returncode == 4, done.stderr
        assert "damaged or of an unknown kind" in done.stderr
    assert not (tmp_path / "x.iso").exists()


@pytest.mark.parametrize("entries_at", [1 << 63, (1 << 64) - 1, 1 << 54, 1 << 30])
@pytest.mark.parametrize("copy", ["primary", "both"])
def test_a_partition_table_that_points_far_away_is_a_bad_one(
    medium: Path, tmp_path: Path, entries_at: int, copy: str
) -> None:
    new = (512 + 72, struct.pack("<Q", entries_at))
    changes = [new] if copy == "primary" else [new, (512 + 32, struct.pack("<Q", entries_at))]
    assert inspect.inspect(changed(medium, tmp_path / "x.iso", *changes)).gpt is False


@pytest.mark.parametrize("seed", range(20))
def test_damage_anywhere_in_the_tables_is_the_mediums_fault(medium: Path, tmp_path: Path, seed: int) -> None:
    odds = random.Random(seed)
    places = [odds.choice([odds.randrange(32768, 40 * 2048), odds.randrange(1024)]) for _ in range(seed % 5 + 1)]
    bad = changed(medium, tmp_path / "x.iso", *((at, odds.choice([b"\0", b"\xff", b"\x7f"])) for at in places))
    with contextlib.suppress(MediumError):
        inspect.inspect(bad, packages=True)
        inspect.roots(bad, "/RPM-GPG-KEY")


def test_a_menu_that_is_no_utf_8_is_kept_byte_by_byte(tree: Path, tmp_path: Path) -> None:
    config = tree / "isolinux" / "isolinux.cfg"
    before = config.read_bytes()
    try:
        config.write_bytes(before.replace(b"quiet", b"caf\xe9"))
        source = vendor.press(tree, tmp_path / "medium.iso", vendor.Shape())
    finally:
        config.write_bytes(before)
    for word in ("inst.ks=cdrom:/ks.cfg", "x" * 5000):
        words = {"kickstart": b"poweroff\n", "kernel_args": (word,), "menu": "unattended"}
        if len(word) > 4096:
            with pytest.raises(MediumError, match="too long") as caught:
                iso.remaster(source, tmp_path / "new.iso", **words)  # type: ignore[arg-type]
            str(caught.value.as_dict()).encode()
        else:
            made = iso.remaster(source, tmp_path / "new.iso", **words)  # type: ignore[arg-type]
            assert b"caf\xe9 " + word.encode() in inspect.read_file(made.output, iso.ISOLINUX)


def bomb(begin: bytes = b"") -> bytes:
    """Some hundred KiB that gzip unpacks to a GiB."""
    return gzip.compress(begin, 1) + gzip.compress(bytes([32]) * PIECE, 1) * (1024 // 64)


@pytest.mark.parametrize("kind", ["comps", "primary", "repomd"])
def test_lists_that_unpack_to_a_gib_are_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    vendor.tree(folder, vendor.Shape())
    vendor.repodata(folder, ["bash"])
    data = folder / "repodata"
    if kind == "repomd":
        (data / "repomd.xml").write_bytes((data / "repomd.xml").read_bytes() + b" " * (65 << 20))
    else:
        [path] = [path for path in data.iterdir() if kind in path.name and path.suffix in (".gz", ".xml", ".zst")]
        head = b'<?xml version="1.0"?>\n<comps>' if kind == "comps" else b'<?xml version="1.0"?>\n<metadata>'
        path.write_bytes(bomb(head))
    medium = vendor.press(folder, tmp_path / "medium.iso", vendor.Shape())
    assert "MiB" in limited(INSPECT, str(medium))


def test_a_package_with_a_million_facts_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    vendor.tree(folder, vendor.Shape())
    vendor.repodata(folder, ["bash"])
    [path] = [path for path in (folder / "repodata").iterdir() if "primary" in path.name and path.suffix != ".sqlite"]
    entries = b'<rpm:entry name="a"/>' * 1_800_000
    head = b'<metadata xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1"><package type="rpm"><name>a</name>'
    text = b"%s<format><rpm:provides>%s</rpm:provides></format></package></metadata>" % (head, entries)
    path.write_bytes(gzip.compress(b'<?xml version="1.0"?>\n' + text, 1))
    medium = vendor.press(folder, tmp_path / "medium.iso", vendor.Shape())
    assert "more than 8 MiB of facts" in limited(INSPECT, str(medium))


def test_groups_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    comps = tmp_path / "comps.xml"
    comps.write_text("<group>" * 1000)
    with pytest.raises(ValueError, match="nested"):
        repodata._groups(comps)


def test_ids_and_names_of_groups_are_those_of_the_elements(tmp_path: Path) -> None:
    comps = tmp_path / "comps.xml"
    comps.write_text(
        "<comps><group><id>core</id><name>Core</name><name xml:lang='de'>Kern</name><packagelist>"
        "<packagereq>bash</packagereq><id>no</id></packagelist></group><category><id>cat</id><name>Cat</name>"
        "</category><environment><id>minimal</id><name>Minimal</name><grouplist><groupid>core</groupid></grouplist>"
        "</environment><group><id/><name></name></group></comps>"
    )
    ids, names = repodata._groups(comps)
    assert ids == ("core", "minimal")
    assert names == {"core", "minimal", "Core", "Kern", "Minimal"}


def test_all_ways_of_packing_are_unpacked_up_to_the_limit(tmp_path: Path) -> None:
    content = b"content" * 100_000
    source, target = tmp_path / "source", tmp_path / "target"
    (tmp_path / "plain").write_bytes(content)
    run(["zstd", "-q", tmp_path / "plain", "-o", tmp_path / "zst"])
    packed = [content, gzip.compress(content), bz2.compress(content), lzma.compress(content)]
    for data in [*packed, (tmp_path / "zst").read_bytes()]:
        source.write_bytes(data)
        unpack(source, target, len(content))
        assert target.read_bytes() == content
        with pytest.raises(UnpackError, match="more than"):
            unpack(source, target, len(content) - 1)
        assert target.stat().st_size == len(content)
    for data in packed[1:]:
        source.write_bytes(data[: len(data) // 2])
        with pytest.raises(UnpackError, match="damaged"):
            unpack(source, target, len(content))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    made = make_signer(tmp_path_factory.mktemp("gpg") / "a", "Vendor")
    yield made
    run(["gpgconf", "--homedir", str(made.home), "--kill", "gpg-agent"])


def test_a_signed_list_that_unpacks_to_a_gib_is_refused(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plain = tmp_path / "plain"
    with plain.open("wb") as file:
        file.truncate(64 << 20)
    gpg = ["gpg", "--homedir", str(signer.home), "--batch", "--compress-algo", "bzip2"]
    run([*gpg, "--output", tmp_path / "signed", "--sign", plain])
    plain.unlink()
    content = (tmp_path / "signed").read_bytes()
    assert len(content) < 64 << 10
    with pytest.raises(MediumError, match="signature"):
        signed_text(content, signer.fingerprint, signer.key)
