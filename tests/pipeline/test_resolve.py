"""The medium of a run that names none: the store's, else the host's own copy, else a mirror's."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cli.state import search_path
from builder.pipeline.resolve import resolve
from builder.recipe import IsoSource, Media, Recipe, load
from builder.settings import Settings
from builder.store.store import Store

pytestmark = pytest.mark.unit


def test_the_hosts_own_copy_is_taken_by_its_name_and_content(tmp_path: Path) -> None:
    kept = tmp_path / "iso" / "vendor-2009.iso"
    kept.parent.mkdir()
    kept.write_bytes(b"the medium")
    own = IsoSource(
        sha256=hashlib.sha256(b"the medium").hexdigest(), urls=("https://mirror.test/isos/vendor-2009.iso",)
    )
    other = IsoSource(sha256="0" * 64, urls=("https://mirror.test/isos/respin.iso",))
    known = load("centos7-minimal", {}, search_path("pipelines"))
    settings = Settings(tmp_path / "artifacts", search_path("pipelines"), search_path("kickstarts"))

    def chosen(recipe: Recipe, settings: Settings) -> tuple[str | None, Path | None]:
        resolved = resolve(recipe, None, Store(settings.store), settings, peek=True)
        return resolved.spec.medium.sha256, resolved.build.medium.file

    recipe = known.model_copy(update={"media": Media(sources=(other, own))})
    assert chosen(recipe, settings) == (other.sha256, None)
    here = replace(settings, media_dir=kept.parent)
    assert chosen(recipe, here) == (own.sha256, kept)
    # A file of that name with another content is somebody else's.
    kept.write_bytes(b"another medium")
    assert chosen(recipe, here) == (other.sha256, None)
