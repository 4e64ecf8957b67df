"""Clear-signed lists of checksums: read where the expected key signed them, refused everywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import MediumError
from builder.media import checksum_list
from builder.media.checksum_list import Listed
from builder.media.gpg import fingerprints, signed_text
from builder.system.process import run

SUMS = f"{'a' * 64}  One.iso\n{'B' * 64} *Two.iso\nSHA256 (Three.iso) = {'c' * 64}\n- -dash\n"


@dataclass(frozen=True)
class Signer:
    home: Path
    fingerprint: str
    key: Path

    def sign(self, text: str) -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--clear-sign"]
        return run(argv, stdin=text).stdout.encode()

    def sign_apart(self, text: str) -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--armor", "--detach-sign"]
        return run(argv, stdin=text).stdout.encode()


def make_signer(home: Path, name: str) -> Signer:
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", ""]
    run([*gpg, "--quick-gen-key", name, "ed25519", "sign", "never"])
    listing = run([*gpg, "--with-colons", "--list-keys"]).stdout
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
    key = home / "public.asc"
    key.write_text(run([*gpg, "--armor", "--export"]).stdout)
    return Signer(home, fingerprint, key)


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("gpg")
    made = make_signer(folder / "a", "Vendor"), make_signer(folder / "b", "Stranger")
    yield made
    for signer in made:
        run(["gpgconf", "--homedir", str(signer.home), "--kill", "gpg-agent"])


def test_signed_checksums_are_read(signers: tuple[Signer, Signer]) -> None:
    vendor = signers[0]
    spaced = " ".join(vendor.fingerprint[at : at + 4] for at in range(0, 40, 4))
    found = checksum_list.parse(signed_text(vendor.sign(SUMS), spaced.lower(), vendor.key))
    assert found == {"One.iso": Listed("a" * 64), "Two.iso": Listed("b" * 64), "Three.iso": Listed("c" * 64)}


def test_text_around_the_signed_part_does_not_count(signers: tuple[Signer, Signer]) -> None:
    vendor = signers[0]
    around = f"{'e' * 64}  Evil.iso\n".encode()
    found = signed_text(around + vendor.sign(SUMS) + around, vendor.fingerprint, vendor.key)
    assert "Evil.iso" not in found


def test_a_changed_checksum_is_refused(signers: tuple[Signer, Signer]) -> None:
    vendor = signers[0]
    changed = vendor.sign(SUMS).replace(b"aaaa", b"aaab")
    with pytest.raises(MediumError, match="changed after signing"):
        signed_text(changed, vendor.fingerprint, vendor.key)


def test_another_key_is_refused(signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    vendor, stranger = signers
    with pytest.raises(MediumError, match="a key that was not given"):
        signed_text(stranger.sign(SUMS), vendor.fingerprint, vendor.key)
    both = tmp_path / "both.asc"
    both.write_bytes(vendor.key.read_bytes() + stranger.key.read_bytes())
    with pytest.raises(MediumError, match="signed by another key"):
        signed_text(stranger.sign(SUMS), vendor.fingerprint, both)


def test_two_signed_parts_are_refused(signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    vendor, stranger = signers
    both = tmp_path / "both.asc"
    both.write_bytes(vendor.key.read_bytes() + stranger.key.read_bytes())
    evil = stranger.sign(f"{'e' * 64}  One.iso\n")
    for text in (vendor.sign(SUMS) + evil, evil + vendor.sign(SUMS)):
        with pytest.raises(MediumError, match="signature on the checksums"):
            signed_text(text, vendor.fingerprint, both)


@pytest.mark.parametrize("text", [b"", SUMS.encode(), b"-----BEGIN PGP SIGNED MESSAGE-----\n"])
def test_unsigned_text_is_refused(signers: tuple[Signer, Signer], text: bytes) -> None:
    with pytest.raises(MediumError, match="not signed"):
        signed_text(text, signers[0].fingerprint, signers[0].key)


def test_a_text_without_checksums_is_refused() -> None:
    with pytest.raises(MediumError, match="holds no sha256"):
        checksum_list.parse("hello\n")


def test_a_name_that_a_terminal_would_act_on_is_passed_over() -> None:
    text = f"{'a' * 64}  good.iso\n{'b' * 64}  \x1b[2Jbad.iso\n{'c' * 64}\t*tab.iso\n"
    assert set(checksum_list.parse(text)) == {"good.iso", "tab.iso"}


def test_sizes_in_comments_belong_to_their_file() -> None:
    text = f"# a.iso: 1480048640 bytes\nSHA256 (a.iso) = {'a' * 64}\nSHA256 (b.iso) = {'B' * 64}\n# c: x bytes\n"
    assert checksum_list.parse(text) == {"a.iso": Listed("a" * 64, 1480048640), "b.iso": Listed("b" * 64)}


def test_a_detached_signature_holds_for_its_text_alone(signers: tuple[Signer, Signer]) -> None:
    vendor, stranger = signers
    signature = vendor.sign_apart(SUMS)
    assert signed_text(SUMS.encode(), vendor.fingerprint, vendor.key, signature) == SUMS
    with pytest.raises(MediumError, match="changed after signing"):
        signed_text(SUMS.replace("a", "b").encode(), vendor.fingerprint, vendor.key, signature)
    with pytest.raises(MediumError, match="a key that was not given"):
        signed_text(SUMS.encode(), vendor.fingerprint, vendor.key, stranger.sign_apart(SUMS))
    with pytest.raises(MediumError, match=r"not signed|refused"):
        signed_text(SUMS.encode(), vendor.fingerprint, vendor.key, b"no signature")


def test_the_key_of_centos_7_that_comes_along() -> None:
    # As the key file on CentOS's own media, and keys.md of git.centos.org.
    key = Path(__file__).parents[2] / "keys" / "RPM-GPG-KEY-CentOS-7"
    assert fingerprints(key) == {"6341AB2753D78A78A7C27BB124C6A8A7F4A80EB5"}


def test_a_bad_fingerprint_is_refused(signers: tuple[Signer, Signer]) -> None:
    with pytest.raises(MediumError, match="40 hex digits"):
        signed_text(b"", "F4A80EB5", signers[0].key)
