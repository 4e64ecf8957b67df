"""A clone of an image that is not here yet: pulled, verified, and then like any other. No machine is switched on."""

from __future__ import annotations

import json
import shutil

from builder import images
from tests.clones.conftest import CloneEnv, house
from tests.registry.conftest import Registry, pushed

__all__ = ["house"]


def test_an_image_in_a_registry_is_pulled_and_cloned(house: CloneEnv, registry: Registry) -> None:
    image = images.load_image(house.catalogue, "toy")
    pushed(image, registry.address())
    shutil.rmtree(house.catalogue)
    done = house.run("clone", registry.address(), house.name("far"), "--no-start", "--json")
    assert done.returncode == 0, done.stderr
    (vm,) = json.loads(done.stdout)
    assert (vm["image"], vm["version"]) == ("toy", image.version)
    there = images.load_image(house.catalogue, "toy")
    assert [proof.good for proof in images.verifications(there.path)] == [True]
    assert [use.name for use in images.users_of(there)] == [house.name("far")]
    assert house.store().find(house.name("far")).version == there.version
    missing = house.run("clone", registry.address(":none"), house.name("none"))
    assert (missing.returncode, "has no tag none" in missing.stderr) == (7, True)
