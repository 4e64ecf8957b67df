"""Nightly runs on a real Dask scheduler with two worker processes on loopback, each with a store of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.nightly.farm import Tls
from builder.nightly.farm.client import security
from builder.system import retry
from tests.nightly.conftest import Place, verdicts
from tests.nightly.test_nights import gone

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class TwoHosts:
    """A scheduler's address, and the worker processes by the folder of their store."""

    address: str
    workers: dict[Path, subprocess.Popen[bytes]]

    def diary(self, store: Path) -> list[str]:
        path = store / "diary"
        return path.read_text().splitlines() if path.exists() else []


@contextlib.contextmanager
def program(place: Place, log: Path, words: Sequence[str], **more: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        environment = {**place.environment, "PYTHONPATH": str(ROOT), **more}
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "dask", *words], cwd=log.parent, env=environment, stdout=out, stderr=out
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def registered(log: Path) -> bool | None:
    return "Registered to" in log.read_text() or None


@contextlib.contextmanager
def two_hosts(place: Place, tls: Sequence[str] = ()) -> Iterator[TwoHosts]:
    scheme = "tls" if tls else "tcp"
    with contextlib.ExitStack() as stack:
        log = place.folder / "scheduler.log"
        words = ["scheduler", "--host", f"{scheme}://127.0.0.1", "--port", "0", "--no-dashboard", *tls]
        stack.enter_context(program(place, log, words))

        def heard() -> str | None:
            found = re.search(rf"Scheduler at:\s*({scheme}://127\.0\.0\.1:\d+)", log.read_text())
            return found[1] if found else None

        address = retry.until(heard, within=60)
        assert address, log.read_text()
        workers = {}
        for name in ("east", "west"):
            home = place.folder / name
            home.mkdir()
            words = ["worker", address, "--name", name, "--no-nanny", "--no-dashboard", "--nthreads", "2", *tls]
            words += [
                "--resources",
                "vm-slots=2 memory=64e9",
                "--preload",
                "tests.nightly.toy_worker",
                "--host",
                "127.0.0.1",
            ]
            words += ["--local-directory", str(home)]
            store = home / "store"
            store.mkdir()
            workers[store] = stack.enter_context(program(place, home / "log", words, BUILDER_ARTIFACTS=str(store)))
        for store in workers:
            assert retry.until(functools.partial(registered, store.parent / "log"), within=60)
        yield TwoHosts(address, workers)


@contextlib.contextmanager
def night(place: Place, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    with (place.folder / "out").open("wb") as out, (place.folder / "err").open("wb") as err:
        child = subprocess.Popen(
            place.command("--artifacts", str(place.artifacts), "nightly", *words, "--json"),
            cwd=place.folder,
            env={**place.environment, "BUILDER_FARM_LEASE": "3"},
            stdout=out,
            stderr=err,
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def begun(farm: TwoHosts) -> tuple[Path, int]:
    """Where the one build runs, and its process."""

    def look() -> tuple[Path, int] | None:
        found = [(store, line) for store in farm.workers for line in farm.diary(store) if line.endswith("wait")]
        return (found[0][0], int(found[0][1].split()[0])) if found else None

    found = retry.until(look, within=60)
    assert found is not None
    return found


def test_builds_are_spread_and_what_they_say_comes_back(place: Place) -> None:
    for name in ("a", "b", "c", "d", "e"):
        place.recipe(name)
    place.recipe("broken", behave="fail")
    with two_hosts(place) as farm:
        done = place.night("--scheduler", farm.address, code=5)
        built = {store: len(farm.diary(store)) for store in farm.workers}
        assert sum(built.values()) == 6
        assert all(built.values())
        assert verdicts(done) == {**dict.fromkeys("abcde", "published"), "broken": "failed"}
        broken = next(result for result in done["results"] if result["name"] == "broken")
        for result in (result for result in done["results"] if result is not broken):
            assert Path(result["kept"], "images", result["name"], result["image"]["version"]).is_dir()
            assert [stage["action"] for stage in result["stages"]] == ["run"] * 3
        # The evidence of the failure is here, not only there.
        assert Path(broken["folder"]).is_relative_to(place.artifacts)
        assert Path(broken["folder"], "screenshot.png").is_file()
        assert not any(any((store / "farm").iterdir()) for store in farm.workers)


def test_the_builds_of_a_killed_worker_are_finished_on_the_other(place: Place) -> None:
    place.recipe("a", behave="wait")
    with two_hosts(place) as farm, night(place, "--scheduler", farm.address) as child:
        store, process = begun(farm)
        # What a build says is here while it still runs.
        said = place.folder / "err"
        begins = re.compile('"event": "started", .*"stage": "install"')
        assert retry.until(lambda: begins.search(said.read_text()), within=30)
        [other] = set(farm.workers) - {store}
        # What waits on the first worker does not wait on the second one.
        (other / "calm").touch()
        farm.workers[store].kill()
        assert retry.until(lambda: gone(process), within=30)
        assert retry.until(lambda: farm.diary(store)[-1] == "undone" or None, within=30)
        assert child.wait(60) == 0, (place.folder / "err").read_text()[-3000:]
        assert len(farm.diary(other)) == 1
        assert (other / "images" / "a").is_dir()
        assert not (store / "images").exists()


def test_a_farm_starts_nothing_more_after_a_failure_when_asked_to(place: Place) -> None:
    place.recipe("broken", behave="fail")
    for name in ("b", "c", "d"):
        place.recipe(name, behave="wait")
    place.recipe("later")
    names = ["broken", "b", "c", "d", "later"]
    # Three of four slots are taken until the failure is known, so that nothing else decides what `later` becomes.
    with two_hosts(place) as farm, night(place, *names, "--fail-fast", "--scheduler", farm.address) as child:
        said = place.folder / "err"
        assert retry.until(lambda: '"verdict": "failed"' in said.read_text() or None, within=60)
        for store in farm.workers:
            (store / "calm").touch()
        assert child.wait(100) == 5
        done = verdicts(json.loads((place.folder / "out").read_text()))
        assert done == {"broken": "failed", **dict.fromkeys("bcd", "published"), "later": "skipped"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGSTOP])
def test_builds_end_with_the_night_and_with_its_lease(place: Place, how: signal.Signals) -> None:
    place.recipe("a", behave="wait")
    with two_hosts(place) as farm, night(place, "--scheduler", farm.address) as child:
        store, process = begun(farm)
        os.kill(child.pid, how)
        assert retry.until(lambda: gone(process), within=30)
        assert retry.until(lambda: farm.diary(store)[-1] == "undone" or None, within=30)
        assert retry.until(lambda: not any((store / "farm").iterdir()) or None, within=30)
        if how == signal.SIGINT:
            assert child.wait(60) == 130
            assert '"verdict": "interrupted"' in (place.folder / "out").read_text()


@pytest.mark.parametrize("address", ["tcp://10.1.2.3:8786", "10.1.2.3:8786", "farm.example:8786", "ucx://10.1.2.3:1"])
def test_a_scheduler_elsewhere_is_not_spoken_to_without_tls(place: Place, address: str) -> None:
    place.recipe("a")
    done = place.run("nightly", "--scheduler", address)
    assert done.returncode == 2
    assert "tls://" in done.stderr


def test_tls_needs_certificates() -> None:
    with pytest.raises(RecipeError, match="certificates"):
        security("tls://10.1.2.3:8786", Tls())
    assert security("tcp://127.0.0.1:8786", Tls()) is None


def certificates(folder: Path) -> dict[str, str]:
    """An authority, and one certificate by it."""
    folder.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-subj", "/CN=farm authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *new, "-subj", "/CN=farm", "-keyout", "own.key", "-out", "own.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", "own.csr", *signed, "-out", "own.pem")
    return {"ca": str(folder / "ca.pem"), "cert": str(folder / "own.pem"), "key": str(folder / "own.key")}


def test_a_night_over_tls_and_none_with_another_authority(place: Place) -> None:
    place.recipe("a")
    files, foreign = certificates(place.folder / "pki"), certificates(place.folder / "foreign")
    words = ["--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"]]
    with two_hosts(place, words) as farm:

        def ours(which: dict[str, str]) -> list[str]:
            return [word for name in which for word in (f"--tls-{name}", which[name])]

        done = place.night("--scheduler", farm.address, *ours(files))
        assert verdicts(done) == {"a": "published"}
        refused = place.run("nightly", "--scheduler", farm.address, *ours(foreign))
        assert refused.returncode == 3
        assert "no scheduler answers" in refused.stderr
