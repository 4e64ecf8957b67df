"""`builder run --push`: the published image is in the registry, too, even when there was nothing to build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.nightly.conftest import Place, place
from tests.registry.conftest import Registry, free_port

__all__ = ["place"]


def test_what_a_run_publishes_is_pushed(place: Place, registry: Registry) -> None:
    place.recipe("toy")
    words = ("--artifacts", str(place.artifacts), "run", "toy", "--push", f"oci://{registry.host}/golden", "--json")
    # A registry that is away costs the push alone.
    away = place.run(
        "--artifacts", str(place.artifacts), "run", "toy", "--push", f"oci://127.0.0.1:{free_port()}/golden", "--json"
    )
    assert away.returncode == 7
    assert json.loads(away.stdout)["error"]["brief"].endswith("does not answer")
    done = place.run(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["built"] == []
    assert told["pushed"]["tags"] == [told["image"]["version"], "latest"]
    there = registry.get("manifests/latest")
    assert there.headers["Docker-Content-Digest"] == told["pushed"]["digest"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--push", "oci://127.0.0.1:1/golden:tag"), "no tag can be given"),
        (("--push", "golden"), "is no address in a registry"),
        (("--push", "oci://127.0.0.1:1/golden", "--media", "rehearsal"), "it is a rehearsal"),
    ],
)
def test_what_cannot_be_pushed_is_not_built(place: Place, tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    place.recipe("toy")
    done = place.run("--artifacts", str(place.artifacts), "run", "toy", *words)
    assert (done.returncode, why in done.stderr.splitlines()[0]) == (2, True), done.stderr
    assert not (place.artifacts / "images").exists()
