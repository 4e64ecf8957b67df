"""Nightly runs push their images to a registry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from builder.registry.client import MANIFEST_TYPE
from tests.nightly.conftest import Place, verdicts
from tests.nightly.test_farm import two_hosts
from tests.registry.conftest import Registry, serving


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path / "registry") as found:
        yield found


def bears(registry: Registry, name: str, tag: str) -> str | None:
    """The digest that a tag names; None when there is no such tag."""
    address = f"http://{registry.host}/v2/golden/{name}/manifests/{tag}"
    answer = requests.head(address, headers={"Accept": MANIFEST_TYPE}, timeout=10)
    return answer.headers["Docker-Content-Digest"] if answer.ok else None


def rot(disk: Path) -> None:
    before, data = disk.stat(), bytearray(disk.read_bytes())
    data[0] ^= 1
    disk.chmod(0o644)
    disk.write_bytes(bytes(data))
    disk.chmod(0o444)
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_a_night_proved_is_pushed_and_latest_moves(place: Place, registry: Registry) -> None:
    place.recipe("a")
    place.recipe("broken", behave="fail")
    words = ("--push", f"oci://{registry.host}/golden")
    first, broken = place.night(*words, code=5)["results"]
    there = bears(registry, "a", first["image"]["version"])
    assert first["pushed"] == f"oci://{registry.host}/golden/a@{there}"
    assert bears(registry, "a", "latest") == there
    assert [stage["stage"] for stage in first["stages"]][-1] == "push"
    assert (broken["pushed"], bears(registry, "broken", "latest")) == ("", None)

    # An unchanged image is there already: only its digest is asked for.
    [again] = place.night("a", *words)["results"]
    assert (again["verdict"], again["pushed"]) == ("unchanged", first["pushed"])
    assert [stage["stage"] for stage in again["stages"]][-2:] == ["verify again", "push"]

    place.recipe("a", size=11)
    [changed] = place.night("a", *words)["results"]
    now = bears(registry, "a", "latest")
    assert now == bears(registry, "a", changed["image"]["version"]) != there
    assert bears(registry, "a", first["image"]["version"]) == there

    rot(place.artifacts / "images" / "a" / changed["image"]["version"] / "a.qcow2")
    [corrupt] = place.night("a", *words, code=6)["results"]
    assert (corrupt["verdict"], corrupt["pushed"]) == ("corrupt", "")


def test_images_of_a_farm_meet_in_the_registry(place: Place, registry: Registry) -> None:
    for name in ("a", "b", "c"):
        place.recipe(name)
    with two_hosts(place) as farm:
        done = place.night("--scheduler", farm.address, "--push", f"oci://{registry.host}/golden")
        assert all(farm.diary(store) for store in farm.workers)
    assert verdicts(done) == dict.fromkeys("abc", "published")
    for result in done["results"]:
        assert result["pushed"].endswith(f"/golden/{result['name']}@{bears(registry, result['name'], 'latest')}")


def test_a_registry_that_is_away_is_a_failure_and_the_image_stays(place: Place) -> None:
    place.recipe("a")
    [result] = place.night("--push", "oci://127.0.0.1:9/golden", code=7)["results"]
    assert (result["verdict"], result["pushed"]) == ("failed", "")
    assert "127.0.0.1:9" in result["fault"]["brief"] + result["fault"]["details"]
    assert (place.artifacts / "images" / "a" / "latest").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--push", "http://registry/golden"), "oci://"),
        (("--push", "oci://127.0.0.1:9/golden:tag"), "no tag can be given"),
        (("--push", "oci://127.0.0.1:9/golden", "--media", "rehearsal"), "--allow-rehearsal"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_night(place: Place, words: tuple[str, ...], told: str) -> None:
    place.recipe("a")
    done = place.run("--artifacts", str(place.artifacts), "nightly", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not place.artifacts.exists()
