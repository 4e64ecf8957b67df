"""The install stage with guests of 512 bytes: only one that reports our token and powers itself off passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import InstallError
from builder.settings import BuildOptions, HostOptions, Paths, Timeouts
from builder.stage import Job, Ledger
from builder.stages import install, remaster
from builder.stages.install import InstallInputs
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from tests.fakes.boot_sector import boot_sector, cd_image

pytestmark = pytest.mark.vm
TOKEN = "5e" * 32
MARKER = f"BUILDER INSTALLED {TOKEN}\n".encode()
MakeJob = Callable[..., Job[Any]]


class Words:
    """Collects what a stage tells people."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def beat(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def make_job(place: Path, uri: str) -> MakeJob:
    """A job of the install stage whose medium boots the given sector."""

    def make(sector: bytes, **timeouts: float) -> Job[Any]:
        folders = {name: place / name for name in ("remaster", "kickstart", "out", "scratch", "evidence")}
        for folder in folders.values():
            folder.mkdir(mode=0o711)
        cd_image(folders["remaster"] / remaster.FILE, sector)
        return Job(
            run_id="20261123-000000-test",
            digest="d" * 64,
            inputs=InstallInputs(
                vcpus=1, memory=64 << 20, firmware="bios", devices="virtio", machine="q35", disk_size=1 << 20
            ),
            needs={name: folders[name] for name in ("remaster", "kickstart")},
            digests={"remaster": "m" * 64, "kickstart": TOKEN},
            out=folders["out"],
            scratch=folders["scratch"],
            evidence=folders["evidence"],
            paths=Paths(place, (), ()),
            host=HostOptions(connect=uri, accel="tcg"),
            build=BuildOptions(timeouts=Timeouts(**timeouts)),
            secrets=StoredSecrets(Store(place / ".store"), "test"),
            progress=Words(),
            ledger=Ledger(),
        )

    return make


def test_token_and_poweroff_pass(make_job: MakeJob) -> None:
    job = make_job(boot_sector(ttys0=b"installing\r\n", ttys1=MARKER))
    install.run(job)
    assert (job.out / install.FILE).stat().st_size == 1 << 20
    assert (job.evidence / "console.log").read_bytes() == b"installing\r\n"
    assert job.ledger.seconds.keys() == {"host", "guest"}
    assert job.ledger.accel == "tcg"


def test_poweroff_without_token_fails(make_job: MakeJob) -> None:
    job = make_job(boot_sector(ttys0=b"bye\r\n"))
    with pytest.raises(InstallError, match="never reported success") as caught:
        install.run(job)
    assert "bye" in caught.value.details


def test_token_of_another_kickstart_fails(make_job: MakeJob) -> None:
    other = "0f" * 32
    job = make_job(boot_sector(ttys1=MARKER.replace(TOKEN.encode(), other.encode())))
    with pytest.raises(InstallError, match="another kickstart's token") as caught:
        install.run(job)
    assert other in caught.value.details


def test_token_on_the_wrong_port_fails(make_job: MakeJob) -> None:
    with pytest.raises(InstallError, match="never reported success"):
        install.run(make_job(boot_sector(ttys0=MARKER)))


def test_reboot_instead_of_poweroff_fails(make_job: MakeJob) -> None:
    with pytest.raises(InstallError, match="reset itself") as caught:
        install.run(make_job(boot_sector(ttys1=MARKER, end="reset")))
    assert "poweroff" in caught.value.hint


def test_triple_fault_fails(make_job: MakeJob) -> None:
    with pytest.raises(InstallError, match="reset itself"):
        install.run(make_job(boot_sector(ttys1=MARKER, end="triple fault")))


def test_silent_guest_is_given_up_with_a_picture(make_job: MakeJob) -> None:
    job = make_job(boot_sector(ttys0=b"thinking\r\n", end="hang"), quiet=0.5)
    with pytest.raises(InstallError, match="no sign of life"):
        install.run(job)
    assert (job.evidence / "screenshot.png").read_bytes().startswith(b"\x89PNG")


def test_hanging_guest_meets_the_limit(make_job: MakeJob) -> None:
    job = make_job(boot_sector(end="hang"), install=0.5)
    with pytest.raises(InstallError, match="took too long") as caught:
        install.run(job)
    assert caught.value.details.startswith("still running after 2 s")


def test_words_that_prove_a_failure_end_the_wait_at_once(make_job: MakeJob) -> None:
    said = b"The following problem occurred on line 7 of the kickstart file:\r\n\r\nUnknown command: x\r\n"
    with pytest.raises(InstallError, match="the installer refuses the kickstart") as caught:
        install.run(make_job(boot_sector(ttys0=said, end="hang")))
    assert caught.value.details.startswith("The following problem occurred on line 7")


def test_evidence_names_the_machine(make_job: MakeJob) -> None:
    job = make_job(boot_sector(ttys1=MARKER))
    install.run(job)
    assert "builder-20261123-000000-test-install" in (job.evidence / "domain.xml").read_text()
