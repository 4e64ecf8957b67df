"""The vendor's signed list, the key that signed it, and the medium that has to be on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from builder.errors import MediumError
from builder.media import vendor_list
from builder.media.vendor_list import DEFAULT, Asked
from builder.settings import MediumSource
from builder.system.digests import sha256_file
from builder.system.process import run
from tests.fakes import vendor
from tests.fakes.mirror import answer, serving
from tests.media.test_gpg import Signer, make_signer


@dataclass(frozen=True)
class Case:
    """A medium with the signer's key on it, and where it came from."""

    signer: Signer
    medium: Path
    source: MediumSource

    def require(self, source: MediumSource | None = None, asked: Asked | None = None) -> str:
        wanted = asked or Asked(DEFAULT, self.signer.fingerprint)
        keys = (self.medium.parent / "keys",)
        return vendor_list.require(self.medium, sha256_file(self.medium), wanted, source or self.source, keys)

    def sign(self, text: str) -> Path:
        path = self.medium.with_name(DEFAULT)
        path.write_bytes(self.signer.sign(text))
        return path

    @property
    def line(self) -> str:
        return f"{sha256_file(self.medium)}  CentOS.iso\n"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    made = make_signer(tmp_path_factory.mktemp("gpg") / "vendor", "Vendor")
    yield made
    run(["gpgconf", "--homedir", str(made.home), "--kill", "gpg-agent"])


@pytest.fixture(scope="module")
def with_key(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Path:
    folder = tmp_path_factory.mktemp("keyed")
    tree = folder / "tree"
    tree.mkdir()
    shape = vendor.Shape(uefi=False, hybrid="")
    vendor.tree(tree, shape)
    (tree / "RPM-GPG-KEY-CentOS-7").write_bytes(signer.key.read_bytes())
    return vendor.press(tree, folder / "medium.iso", shape)


@pytest.fixture
def case(tmp_path: Path, signer: Signer, with_key: Path) -> Case:
    medium = tmp_path / "medium.iso"
    medium.hardlink_to(with_key)
    return Case(signer, medium, MediumSource(medium))


def test_a_list_beside_the_file_and_the_key_on_the_medium(case: Case) -> None:
    case.sign(case.line)
    said = case.require()
    assert (
        said == f"CentOS.iso is on the vendor's list, signed by {case.signer.fingerprint[-16:]} "
        "(key from /RPM-GPG-KEY-CentOS-7 on the medium)"
    )


def test_a_key_of_the_folder_comes_first(case: Case, tmp_path: Path) -> None:
    case.sign(case.line)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "notes.txt").write_text("no key")
    (keys / "vendor.asc").write_bytes(case.signer.key.read_bytes())
    assert str(keys / "vendor.asc") in case.require()


def test_a_list_beside_the_mirrors_file(case: Case, tmp_path: Path) -> None:
    signed = case.signer.sign(case.line)
    asked = []

    def give(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        answer(handler, 200, signed)

    with serving(give) as site:
        case.require(MediumSource(None, ("http://127.0.0.1:1/medium.iso", site.url)))
    assert asked == [f"/{DEFAULT}"]


def test_no_list_anywhere_names_the_file_to_get(case: Case, tmp_path: Path) -> None:
    def give(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 404)

    with serving(give) as site, pytest.raises(MediumError, match=r"sha256sum\.txt\.asc, and there is none") as caught:
        case.require(MediumSource(None, (site.url,)))
    assert "HTTP 404" in caught.value.details


def test_a_medium_that_is_not_on_the_list(case: Case) -> None:
    case.sign(f"{'0' * 64}  CentOS.iso\n")
    with pytest.raises(MediumError, match="does not name this medium"):
        case.require()


def test_a_changed_list(case: Case) -> None:
    path = case.sign(case.line)
    path.write_bytes(path.read_bytes().replace(b"CentOS.iso", b"CentOS.ISO"))
    with pytest.raises(MediumError, match="changed after signing"):
        case.require()


def test_a_key_that_nobody_has(case: Case) -> None:
    case.sign(case.line)
    with pytest.raises(MediumError, match="there is no public key 6341AB27") as caught:
        case.require(asked=Asked(DEFAULT, "6341AB2753D78A78A7C27BB124C6A8A7F4A80EB5"))
    assert "./keys/" in caught.value.hint


def bsd(case: Case, name: str = "medium.iso", sha256: str | None = None, size: int | None = None) -> str:
    """A list as Rocky Linux, AlmaLinux and Fedora write it."""
    size = size or case.medium.stat().st_size
    return f"# {name}: {size} bytes\nSHA256 ({name}) = {sha256 or sha256_file(case.medium)}\n"


def test_a_clear_signed_list_in_bsd_form_under_a_name_of_its_own(case: Case) -> None:
    case.medium.with_name("CHECKSUM").write_bytes(case.signer.sign(bsd(case)))
    said = case.require(asked=Asked("CHECKSUM", case.signer.fingerprint))
    assert said.startswith("medium.iso is on the vendor's list, signed by ")


@pytest.mark.parametrize("ending", vendor_list.DETACHED)
def test_a_list_with_its_signature_in_a_file_beside_it(case: Case, ending: str) -> None:
    case.medium.with_name("CHECKSUM").write_text(bsd(case))
    case.medium.with_name(f"CHECKSUM{ending}").write_bytes(case.signer.sign_apart(bsd(case)))
    assert "signed by" in case.require(asked=Asked("CHECKSUM", case.signer.fingerprint))
    case.medium.with_name("CHECKSUM").write_text(bsd(case).replace("medium", "Medium"))
    with pytest.raises(MediumError, match="changed after signing"):
        case.require(asked=Asked("CHECKSUM", case.signer.fingerprint))


def test_a_vendor_that_signs_none(case: Case) -> None:
    case.medium.with_name("CHECKSUM").write_text(bsd(case))
    with pytest.raises(MediumError, match="CHECKSUM is not signed, and the recipe says signed_by") as caught:
        case.require(asked=Asked("CHECKSUM", case.signer.fingerprint))
    assert "drop signed_by" in caught.value.hint
    assert case.require(asked=Asked("CHECKSUM")) == "medium.iso is on the vendor's list"


def test_a_list_that_is_wrong_about_the_medium_gives_both_numbers(case: Case) -> None:
    case.medium.with_name("CHECKSUM").write_text(bsd(case, sha256="0" * 64, size=1480048640))
    with pytest.raises(MediumError, match=r"the vendor's list has another checksum for medium\.iso") as caught:
        case.require(asked=Asked("CHECKSUM"))
    assert f"list   sha256 {'0' * 64}, 1480048640 bytes" in caught.value.details
    found = f"medium sha256 {sha256_file(case.medium)}, {case.medium.stat().st_size} bytes"
    assert found in caught.value.details


def test_a_list_at_a_url_of_its_own(case: Case) -> None:
    asked = []

    def give(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        answer(handler, 200, case.line.encode())

    with serving(give) as site:
        case.require(asked=Asked(f"{site.url.rpartition('/')[0]}/sums/OracleLinux.checksum"))
    assert asked == ["/sums/OracleLinux.checksum"]
