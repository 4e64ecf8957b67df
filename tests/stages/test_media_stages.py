"""The stages that get and prepare the medium, without a machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from builder.errors import HostError, MediumError, RecipeError
from builder.iso import inspect
from builder.pipeline import media_library
from builder.settings import BuildOptions, HostOptions, MediumSource, Paths, Settings
from builder.stage import Inputs, Job, Ledger
from builder.stages import fetch, kernel, kickstart, remaster
from builder.store.objects import describe
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.system.digests import sha256_file
from tests.conftest import Silent
from tests.fakes import el, lorax, vendor
from tests.fakes import iso_readers as readers
from tests.fakes.media import Press
from tests.fakes.mirror import answer, serving

KICKSTART = "cdrom\nclearpart --all\nreqpart\npart / --size=2048 --grow\npoweroff\n"
SEED = remaster.RemasterInputs(delivery="seed", memory=2 << 30, disk_size=8 << 30, firmware="bios")

MakeJob = Callable[..., Job[Any]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / ".store")
    made.prepare()
    return made


@pytest.fixture
def vendors(tmp_path: Path, press: Press) -> Path:
    path = tmp_path / "vendor.iso"
    shutil.copyfile(press(vendor.Shape()), path)
    return path


@pytest.fixture
def make_job(tmp_path: Path, store: Store) -> MakeJob:
    """A job with empty directories; `needs` are finished ones, by name."""
    count = 0

    def make(inputs: Inputs, needs: dict[str, Path], source: MediumSource | None = None) -> Job[Any]:
        nonlocal count
        count += 1
        folders = [store.tmp / f"job{count}-{kind}" for kind in ("out", "scratch")]
        for folder in folders:
            folder.mkdir()
        return Job(
            run_id="test",
            digest="d" * 64,
            inputs=inputs,
            needs=needs,
            digests={name: path.name for name, path in needs.items()},
            out=folders[0],
            scratch=folders[1],
            evidence=tmp_path,
            paths=Paths(tmp_path, (), ()),
            host=HostOptions(),
            build=BuildOptions(source or MediumSource()),
            secrets=StoredSecrets(store, "test"),
            progress=Silent(),
            ledger=Ledger(),
        )

    return make


@pytest.fixture
def needs(tmp_path: Path, store: Store, vendors: Path) -> dict[str, Path]:
    """A medium that was taken in, and a rendered kickstart."""
    known, _ = media_library.add(vendors, store)
    folder = tmp_path / "kickstart"
    folder.mkdir()
    (folder / kickstart.FILE).write_text(KICKSTART)
    return {"fetch": known.path.parent, "kickstart": folder}


def kernels(store: Store) -> list[Path]:
    return [path for path in store.objects.iterdir() if (path / kernel.KERNEL).exists()]


def test_seed_leaves_the_medium_untouched_and_writes_one_small_cd(
    make_job: MakeJob, needs: dict[str, Path], store: Store
) -> None:
    job = make_job(SEED, needs)
    remaster.run(job)
    start = remaster.boot(job.out)
    assert start.kernel is not None
    assert start.cdroms[0].samefile(needs["fetch"] / fetch.FILE)
    anew = [path for path in job.out.iterdir() if path.stat().st_nlink == 1]
    assert sum(path.stat().st_size for path in anew) < 2 << 20
    assert readers.unpacked(start.cdroms[1], job.scratch / "cd")["/ks.cfg"] == KICKSTART.encode()
    # What QEMU's user has to read, as the remastered medium.
    assert start.cdroms[1].stat().st_mode & 0o777 == 0o444
    words = start.kernel.cmdline.split()
    assert words[:2] == [r"inst.stage2=hd:LABEL=CentOS\x207\x20x86_64", "inst.ks=hd:LABEL=BUILDER_KS:/ks.cfg"]
    assert tuple(words[2:]) == remaster.KERNEL_ARGS
    assert start.kernel.kernel.read_bytes() == bytes([1]) * 66_000
    assert start.kernel.initrd.read_bytes() == bytes([2]) * 130_001


def test_the_kernel_is_taken_out_once(make_job: MakeJob, needs: dict[str, Path], store: Store) -> None:
    first, second = make_job(SEED, needs), make_job(SEED, needs)
    remaster.run(first)
    remaster.run(second)
    assert (first.out / kernel.KERNEL).samefile(second.out / kernel.KERNEL)
    (standing,) = kernels(store)
    # A damaged one is made anew.
    (standing / kernel.KERNEL).chmod(0o644)
    (standing / kernel.KERNEL).write_bytes(b"broken")
    third = make_job(SEED, needs)
    remaster.run(third)
    assert (third.out / kernel.KERNEL).read_bytes() == bytes([1]) * 66_000


def test_remaster_makes_one_cd_that_boots_by_itself(make_job: MakeJob, needs: dict[str, Path], store: Store) -> None:
    job = make_job(SEED.model_copy(update={"delivery": "remaster"}), needs)
    remaster.run(job)
    assert remaster.boot(job.out) == remaster.Boot((job.out / remaster.FILE,), None)
    # Nobody checks this medium, and the vendor's sum would not hold.
    assert inspect.inspect(job.out / remaster.FILE).md5 is None
    assert inspect.inspect(needs["fetch"] / fetch.FILE).md5 is not None
    assert kernels(store) == []


@pytest.mark.parametrize("delivery", ["seed", "remaster"])
def test_files_beside_the_kickstart_are_in_the_root_folder_of_a_cd(
    make_job: MakeJob, needs: dict[str, Path], delivery: str
) -> None:
    beside = needs["kickstart"] / kickstart.BESIDE
    beside.mkdir()
    (beside / "users-and-groups.ks").write_text("skipx\n")
    (beside / "setup.bin").write_bytes(bytes(range(256)))
    job = make_job(SEED.model_copy(update={"delivery": delivery}), needs)
    remaster.run(job)
    found = readers.unpacked(remaster.boot(job.out).cdroms[-1], job.scratch / "cd")
    assert found["/users-and-groups.ks"] == b"skipx\n"
    assert found["/setup.bin"] == bytes(range(256))
    assert found["/ks.cfg"] == KICKSTART.encode()
    if delivery == "remaster":
        names = found["/TRANS.TBL"].decode()
        assert all(f"\t{name}\n" in names for name in ("ks.cfg", "setup.bin", "users-and-groups.ks"))


def test_a_file_of_the_vendor_is_not_replaced_by_one_beside_the_kickstart(
    make_job: MakeJob, needs: dict[str, Path]
) -> None:
    beside = needs["kickstart"] / kickstart.BESIDE
    beside.mkdir()
    (beside / ".discinfo").write_text("mine\n")
    job = make_job(SEED.model_copy(update={"delivery": "remaster"}), needs)
    with pytest.raises(MediumError, match=r"has a file /\.discinfo of its own"):
        remaster.run(job)


@pytest.mark.parametrize("delivery", ["seed", "remaster"])
def test_what_cannot_be_installed_is_told_before_anything_is_written(
    make_job: MakeJob, needs: dict[str, Path], delivery: str
) -> None:
    job = make_job(SEED.model_copy(update={"delivery": delivery, "memory": 256 << 20, "disk_size": 1 << 30}), needs)
    with pytest.raises(RecipeError, match="does not fit") as caught:
        remaster.run(job)
    assert "machine.memory is 256 MiB" in caught.value.details
    assert "disk.size is 1024 MiB" in caught.value.details
    assert list(job.out.iterdir()) == []


def test_a_medium_of_a_later_release_is_started_from_its_own_kernel_and_a_seed(
    make_job: MakeJob, needs: dict[str, Path], store: Store, tmp_path: Path
) -> None:
    known, _ = media_library.add(el.dvd(tmp_path), store)
    text = KICKSTART + "%packages\n@core\nnginx\n%end\n"
    (needs["kickstart"] / kickstart.FILE).write_text(text)
    job = make_job(SEED.model_copy(update={"release": "el9"}), {**needs, "fetch": known.path.parent})
    remaster.run(job)
    start = remaster.boot(job.out)
    assert start.kernel is not None
    assert start.kernel.kernel.read_bytes() == b"vmlinuz" * 1000
    words = start.kernel.cmdline.split()
    assert words[:2] == ["inst.stage2=hd:LABEL=Rocky-9-8-x86_64-dvd", "inst.ks=hd:LABEL=BUILDER_KS:/ks.cfg"]


def test_a_medium_that_no_mirror_gives_has_to_be_given(make_job: MakeJob) -> None:
    job = make_job(fetch.FetchInputs(sha256="ab" * 32, rehearsal=None), {})
    with pytest.raises(MediumError, match="names no mirror") as caught:
        fetch.run(job)
    assert "builder media add FILE" in caught.value.hint
    assert not caught.value.diagnosis.transient


@pytest.mark.parametrize("release", ["el7", "el8", "el10", "fedora"])
def test_a_medium_of_another_release_is_refused_before_anything_is_written(
    make_job: MakeJob, needs: dict[str, Path], store: Store, tmp_path: Path, release: str
) -> None:
    known, _ = media_library.add(el.dvd(tmp_path), store)
    job = make_job(SEED.model_copy(update={"release": release}), {**needs, "fetch": known.path.parent})
    with pytest.raises(MediumError, match=rf"^the medium is Rocky Linux 9\.8, the recipe says release: {release}$"):
        remaster.run(job)
    assert list(job.out.iterdir()) == []


def test_a_medium_without_a_kernel_names_the_other_delivery(
    make_job: MakeJob, needs: dict[str, Path], store: Store, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    bare = vendor.press(tree, tmp_path / "bare.iso", vendor.Shape(bios=False, uefi=False, hybrid="", implanted=False))
    known, _ = media_library.add(bare, store)
    with pytest.raises(MediumError, match="no kernel that could be started directly") as caught:
        remaster.run(make_job(SEED, {**needs, "fetch": known.path.parent}))
    assert "remaster" in caught.value.hint


def test_a_signature_asked_for_later_does_not_fetch_the_medium_again(
    make_job: MakeJob, needs: dict[str, Path], vendors: Path
) -> None:
    sha256 = next(known.sha256 for known in media_library.in_store(Store(vendors.parent / ".store")))
    job = make_job(fetch.FetchInputs(sha256=sha256, rehearsal=None, signed_by="A" * 40), {})
    # No mirror is asked for the medium; that there is no list is what stops it.
    with pytest.raises(MediumError, match=r"wants the vendor.s list"):
        fetch.run(job)
    assert (job.out / fetch.FILE).samefile(needs["fetch"] / fetch.FILE)


def test_a_medium_that_two_want_at_once_is_fetched_once(make_job: MakeJob, vendors: Path) -> None:
    """Also when they want it signed by different people, and so have different objects."""
    data, asked = vendors.read_bytes(), []

    def give(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if handler.path.endswith(".iso"):
            time.sleep(0.3)
            answer(handler, 200, data)
        else:
            answer(handler, 404)

    def one(signer: str) -> str:
        inputs = fetch.FetchInputs(sha256=hashlib.sha256(data).hexdigest(), rehearsal=None, signed_by=signer * 40)
        with pytest.raises(MediumError, match=r"wants the vendor.s list"):
            fetch.run(replace(jobs[signer], inputs=inputs))
        return signer

    with serving(give) as site, ThreadPoolExecutor(2) as pool:
        jobs = {name: make_job(SEED, {}, MediumSource(None, (site.url,))) for name in "AB"}
        assert sorted(pool.map(one, "AB")) == ["A", "B"]
    assert asked.count("/medium.iso") == 1
    first, second = (jobs[name].out / fetch.FILE for name in "AB")
    assert first.samefile(second)


def test_a_file_is_taken_in_as_it_is(make_job: MakeJob, store: Store, vendors: Path) -> None:
    known, how = media_library.add(vendors, store)
    assert how in ("reflink", "hard link")
    assert media_library.add(vendors, store) == (known, "there already")
    job = make_job(fetch.FetchInputs(sha256=known.sha256, rehearsal=None), {}, MediumSource(vendors))
    fetch.run(job)
    assert how != "hard link" or (job.out / fetch.FILE).samefile(vendors)
    assert (job.out / fetch.FACTS).read_bytes() == known.path.with_name(fetch.FACTS).read_bytes()


def test_of_a_file_that_was_hashed_for_the_plan_no_byte_is_read_again(
    make_job: MakeJob, store: Store, vendors: Path
) -> None:
    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    store.prepare()
    os.utime(vendors, (0, 0))
    sha256 = store.sha256_of(vendors)
    job = make_job(fetch.FetchInputs(sha256=sha256, rehearsal=None), {}, MediumSource(vendors))
    before = read()
    fetch.run(job)
    files = describe(job.out, hashed=True, cache=store.digests)
    assert files[fetch.FILE].sha256 == sha256
    assert read() - before < vendors.stat().st_size / 2


def test_a_damaged_rehearsal_medium_is_refused(make_job: MakeJob, store: Store, tmp_path: Path, press: Press) -> None:
    """No recipe names its digest; what is implanted in it vouches for it."""
    path = tmp_path / "rehearsal.iso"
    shutil.copyfile(press(vendor.Shape(application=f"{inspect.REHEARSAL_MARK} 1")), path)
    known, _ = media_library.add(path, store)
    fetch.run(make_job(fetch.FetchInputs(sha256=known.sha256, rehearsal=known.sha256), {}, MediumSource(path)))
    damaged = tmp_path / "damaged.iso"
    shutil.copyfile(path, damaged)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        file.write(b"rot")
    with pytest.raises(MediumError, match=r"damaged\.iso is damaged"):
        media_library.add(damaged, store)
    found = sha256_file(damaged)
    job = make_job(fetch.FetchInputs(sha256=found, rehearsal=found), {}, MediumSource(damaged))
    with pytest.raises(MediumError, match=r"damaged\.iso is damaged"):
        fetch.run(job)


def test_a_medium_of_el9_is_rewritten(make_job: MakeJob, needs: dict[str, Path], store: Store, tmp_path: Path) -> None:
    (tmp_path / "el9").mkdir()
    known, _ = media_library.add(lorax.press(tmp_path / "el9", lorax.MEDIA["el9 dvd"]), store)
    job = make_job(
        SEED.model_copy(update={"delivery": "remaster", "release": "el9"}), {**needs, "fetch": known.path.parent}
    )
    remaster.run(job)
    start = remaster.boot(job.out)
    assert start.kernel is None
    label = lorax.MEDIA["el9 dvd"].label
    menu = inspect.read_file(start.cdroms[0], "/isolinux/isolinux.cfg").decode()
    assert f"inst.ks=hd:LABEL={label}:/ks.cfg {' '.join(remaster.KERNEL_ARGS)}\n" in menu
    assert inspect.read_file(start.cdroms[0], "/ks.cfg") == KICKSTART.encode()


@pytest.mark.parametrize(("delivery", "release", "wanted"), [("remaster", "el9", True), ("remaster", "el7", False),
                                                             ("seed", "el9", False)])  # fmt: skip
def test_xorriso_is_asked_for_before_the_medium_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivery: str, release: str, wanted: bool
) -> None:
    (tmp_path / "apt-get").symlink_to("/usr/bin/apt-get")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert remaster.STAGE.preflight is not None
    given = SEED.model_copy(update={"delivery": delivery, "release": release})
    expected = pytest.raises(HostError, match="xorriso is not installed") if wanted else contextlib.nullcontext()
    with expected as caught:
        remaster.STAGE.preflight(given, Settings(tmp_path, (), ()))
    assert caught is None or caught.value.hint == "apt-get install xorriso"
