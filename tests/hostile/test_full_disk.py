"""A disk without a free byte: what frees space still works, gc finds what was left, and no mirror fills a disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.clones.create import CreateOptions
from builder.clones.request import CloneRequest
from builder.errors import FREE_SPACE, Cause, HostError, MediumError, of_os_error
from builder.images import holds
from builder.media import download, partial_file
from builder.settings import Settings
from builder.store.store import Store
from builder.vm import domains
from tests.clones.conftest import CloneEnv
from tests.command import Ran, builder
from tests.conftest import Silent
from tests.fakes.qcow2 import qcow2

__all__ = ["builder"]

Builder = Callable[..., Ran]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
DAYS = 86400.0


@pytest.fixture
def small() -> Iterator[Path]:
    """A file system of 128 MiB."""
    place = Path(tempfile.mkdtemp(prefix="builder-test-", dir="/var/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m,mode=0711", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def fill(place: Path) -> None:
    """Leave not one byte free."""
    with (place / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for piece in (bytes(1 << 20), bytes(4096)):
            with contextlib.suppress(OSError):
                while file.write(piece) == len(piece):
                    pass
    with pytest.raises(OSError, match="No space left"):
        (place / "more").write_bytes(b"x")
    (place / "more").unlink()
    assert os.statvfs(place).f_bavail == 0


def three_versions(catalogue: Path) -> list[images.Image]:
    found = []
    for number in (1, 2, 3):
        disk = catalogue.parent / "disk"
        disk.write_bytes(qcow2(os.urandom(100_000)))
        image = images.publish(catalogue, "toy", {"toy.qcow2": disk}, {})
        manifest = image.path / images.MANIFEST
        manifest.chmod(0o644)
        created = f"2026-01-0{number}T00:00:00+00:00"
        manifest.write_text(manifest.read_text().replace(image.manifest["created"], created))
        found.append(image)
        disk.unlink()
    return found


def test_images_at_no_free_byte(builder: Builder, small: Path) -> None:
    first, second, third = three_versions(small / "images")
    shutil.rmtree(small / "images/toy/.users", ignore_errors=True)

    def run(*words: str) -> Ran:
        fill(small)
        done = builder("--artifacts", str(small), *words)
        assert done.returncode == 0, done.stderr
        return done

    run("images", "rollback", "toy")
    assert images.load_image(small / "images", "toy").version == second.version
    assert set(holds.read(small / "images/toy")) == {third.version}
    run("images", "release", "toy")
    assert images.load_image(small / "images", "toy").version == third.version
    assert holds.read(small / "images/toy") == {}
    run("gc", "--older-than", "0")
    run("images", "prune", "--keep", "1")
    assert [image.version for image in images.list_images(small / "images")] == [third.version]
    assert not first.path.exists()


def test_gc_at_no_free_byte(builder: Builder, small: Path) -> None:
    store = Store(small / ".store")
    store.prepare()
    (store.objects / ("a" * 64)).mkdir()
    (store.objects / ("a" * 64) / "disk").write_bytes(bytes(1 << 20))
    fill(small)
    dry = builder("--artifacts", str(small), "gc", "--older-than", "0", "--dry-run", "--json").document()["bytes"]
    done = builder("--artifacts", str(small), "gc", "--older-than", "0", "--json")
    assert (done.returncode, done.document()["bytes"]) == (0, dry), done.stderr
    assert dry >= 1 << 20


def test_a_clone_is_deleted_at_no_free_byte(small: Path) -> None:
    house = CloneEnv(small, Settings(artifacts=small, recipes=(), templates=()).uri)
    house.publish()
    with domains.connect(house.uri) as host:
        for full in (False, True):
            (vm,) = house.make(host, "web", full=full)
            fill(small)
            assert house.store(host).delete([vm.name]) == []
            assert not (house.vms / vm.name).exists()
        assert house.name("web") not in host.all()


@pytest.mark.parametrize(
    ("room", "stands"), [(400 << 10, 0), (1536 << 10, 1)], ids=["for a clone that boots", "for a state, not for a copy"]
)
def test_an_instant_clone_has_only_so_much_room(small: Path, room: int, stands: int) -> None:
    paths = Settings(artifacts=small, recipes=(), templates=())
    house = CloneEnv(small, paths.uri)
    house.publish(name="held", ttys1=b"BUILDER HELD\r\n")
    store, said = Store(paths.store), list[str]()
    options = CreateOptions(accel="tcg", warm=paths, report=said.append)
    with domains.connect(house.uri) as host, contextlib.ExitStack() as undo:
        undo.callback(lambda: house.store(host).delete([vm.name for vm in house.store(host).vms()]))
        fill(small)
        os.truncate(small / "filler", (small / "filler").stat().st_size - room)
        image = images.load_image(house.catalogue, "held")
        with pytest.raises(HostError, match="No space left") if stands else contextlib.nullcontext():
            house.store(host).create(image, CloneRequest(house.name("web")), options)
        assert [list(path.iterdir()) for path in (store.tmp, store.marks)] == [[], []]
        assert len(list(store.objects.iterdir())) == stands
        assert said[-1].startswith("the warm state is made" if stands else "not instant, booting: ")
        assert (house.name("web") in host.all()) == (house.vms / house.name("web")).exists() == (not stands)


def test_the_hint_names_commands_that_work_there() -> None:
    for command in ("builder gc", "builder images prune", "builder vm delete"):
        assert command in FREE_SPACE


def aged(path: Path, *, days: float = 40, size: int = 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - days * DAYS
    os.utime(path, (then, then))
    return path


def test_gc_finds_what_killed_processes_left(builder: Builder, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    store = Store(artifacts / ".store")
    store.prepare()
    disk = tmp_path / "disk"
    disk.write_bytes(qcow2(b"disk"))
    images.publish(artifacts / "images", "toy", {"toy.qcow2": disk}, {})
    gone = [
        aged(store.downloads / "a.iso.part"),
        aged(store.downloads / "b.iso"),
        aged(artifacts / "images/toy/..holds.json.abcd.tmp"),
        aged(artifacts / "images/toy/.users/0123456789ab/.id.json.abcd.tmp"),
        aged(artifacts / "images/toy/.new-0011/toy.qcow2"),
        aged(artifacts / "images/toy/.gone-0011/toy.qcow2"),
        aged(artifacts / "vms/web/.vm.json.abcd.tmp"),
        aged(artifacts / "runs/20260101-000000-aaaa/.run.json.abcd.tmp"),
        aged(artifacts / ".cache/.rehearsal-inputs.json.abcd.tmp"),
    ]
    reports = aged(artifacts / "reports/.new-0011/index.html")
    then = time.time() - 40 * DAYS
    os.utime(reports.parent, (then, then))
    stay = [
        aged(store.downloads / "c.iso.part", days=0),
        aged(artifacts / "vms/web/.vm.json.efgh.tmp", days=0),
        aged(artifacts / "vms/web/vm.json"),
    ]
    busy = aged(store.downloads / "d.iso.part")
    with busy.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        dry = builder("gc", "--dry-run", "--json").document()["bytes"]
        assert all(path.exists() for path in (*gone, reports, *stay, busy))
        done = builder("gc", "--json")
    assert done.returncode == 0, done.stderr
    assert done.document()["bytes"] == dry >= 10 * 5000
    assert [path for path in (*gone, reports) if path.exists()] == []
    assert [path for path in (*stay, busy) if not path.exists()] == []
    assert builder("gc", "--older-than", "0").returncode == 0
    assert not stay[0].exists()
    assert stay[1].exists()


class Endless(BaseHTTPRequestHandler):
    """Sends chunks for ever; with a Content-Length for `/long`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.endswith("/long"):
            self.send_header("Content-Length", str(1 << 40))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = bytes(1 << 20)
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"100000\r\n" + piece + b"\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def endless() -> Iterator[str]:
    """A mirror that never stops."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_endless_mirror_does_not_fill_the_disk(small: Path, endless: str) -> None:
    with pytest.raises(HostError, match=r"no space for x\.iso\.part") as caught:
        download.fetch([f"{endless}/x.iso"], "0" * 64, small / "x.iso", progress=Silent(), pause=0)
    assert (caught.value.diagnosis.cause, caught.value.hint) == (Cause.DISK_FULL, FREE_SPACE)
    assert list(small.iterdir()) == []
    with pytest.raises(HostError, match=r"no space for x\.iso\.part: 1048576 MiB to come"):
        download.fetch([f"{endless}/long"], "0" * 64, small / "x.iso", progress=Silent(), pause=0)
    assert list(small.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_gets_the_space_back(
    small: Path, endless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_file, "RESERVE", -(1 << 40))
    with pytest.raises(HostError, match="No space left on device") as caught:
        download.fetch([f"{endless}/x.iso"], "0" * 64, small / "x.iso", progress=Silent(), pause=0)
    assert caught.value.diagnosis.cause is Cause.DISK_FULL
    assert list(small.iterdir()) == []
    assert os.statvfs(small).f_bfree == os.statvfs(small).f_blocks


def test_more_than_any_medium_is_refused(tmp_path: Path, endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "MOST_UNKNOWN", 4 << 20)
    with pytest.raises(MediumError, match="it sends too much") as caught:
        download.fetch([f"{endless}/x.iso"], "0" * 64, tmp_path / "x.iso", progress=Silent(), pause=0)
    assert caught.value.diagnosis.cause is Cause.WRONG_MEDIUM
    assert list(tmp_path.iterdir()) == []


def test_errno_of_a_full_disk_has_the_hint() -> None:
    found: Any = of_os_error(OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert found.hint == FREE_SPACE
