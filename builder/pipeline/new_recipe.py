"""Write a recipe for an install ISO that is at hand, with the ISO's own sha256.

Invariant: the recipe that is written can be built: the ISO is whole by the checksum that its vendor implanted, it is of
the release, and it has the packages that the kickstart wants.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from builder import recipe
from builder.errors import MediumError, RecipeError
from builder.iso import inspect
from builder.iso.inspect import MediumFacts
from builder.kickstart import preflight
from builder.pipeline import kickstart_preview, media_library
from builder.recipe import types
from builder.recipe.loading import SUFFIX
from builder.releases import Release
from builder.settings import Settings
from builder.system import atomic_file
from builder.system.digests import sha256_file

FOLDER = Path("pipelines")
TEXT = """\
# {product}: unattended install from the vendor's ISO, one root file system, root on console and SSH.
name: {name}
release: {release}

media:
  sources:
    # {file}: the checksum that is implanted in it held when this was written.
    - sha256: {sha256}
{urls}
kickstart:
  template: {template}
  vars:
    hostname: localhost.localdomain
    keyboard: us
    lang: en_US.UTF-8
    packages: []
    timezone: UTC

machine: {{vcpus: 2, memory: 2GiB, firmware: bios, devices: virtio}}
disk: {{size: 10GiB}}
network: {{mode: user}}

# For a host with KVM; under TCG they are stretched.
limits: {{install: 60m, quiet: 10m, boot: 5m}}

verify:
  checks:
    - {{name: root-is-writable, run: touch /var/tmp/builder-check && rm /var/tmp/builder-check}}
    - {{name: sshd-without-dns, run: sshd -T | grep -qix 'usedns no'}}
    - {{name: root-by-key-only, run: sshd -T | grep -qiE '^permitrootlogin (without-password|prohibit-password)$'}}

publish: {{compression: zstd, keep: 7}}
"""


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was written, and the sha256 of its ISO."""

    path: Path
    sha256: str


def write(name: str, release: Release, file: Path, settings: Settings, *, force: bool) -> NewRecipe:
    """Write `pipelines/NAME.yaml` below the working directory.

    Args:
        file: the ISO; all of it is read.
        force: replace a recipe that is there.

    Raises:
        RecipeError: the name cannot be one of a recipe, the recipe is there already, or the ISO lacks a package.
        MediumError: the ISO is damaged, of another release, without an implanted checksum, or without packages.
    """
    path = FOLDER / f"{name}{SUFFIX}"
    try:
        TypeAdapter(types.Name).validate_python(name)
    except ValidationError as fault:
        raise RecipeError(str(fault.errors()[0]["ctx"]["error"])) from None
    if path.exists() and not force:
        raise RecipeError(f"{path} exists already", hint="give another name, or --force")
    facts = inspect.inspect(file)
    preflight.require_release(facts, release)
    if facts.is_rehearsal:
        raise MediumError(f"{file} is a rehearsal medium: no recipe names one", hint="--media takes it as it is")
    if media_library.require_sound(file, facts) == "none":
        raise MediumError(
            f"no checksum is implanted in {file}: nothing says that it is whole",
            hint="compare its sha256 with the vendor's list, and write it into a recipe by hand",
        )
    sha256 = sha256_file(file)
    text = _text(name, release, file, facts, sha256, settings.recipes)
    _require_fit(name, text, file, settings)
    FOLDER.mkdir(exist_ok=True)
    with atomic_file.replacing(path) as draft:
        draft.write(text.encode())
    return NewRecipe(path, sha256)


def _text(name: str, release: Release, file: Path, facts: MediumFacts, sha256: str, search: Sequence[Path]) -> str:
    mirrors = "".join(f"        - {url}\n" for url in _urls(file.name, sha256, search))
    return TEXT.format(
        product=_one_line(facts.product or facts.volume_id),
        name=name,
        release=release.name,
        file=_one_line(file.name),
        sha256=sha256,
        urls=f"      urls:\n{mirrors}" if mirrors else "",
        template=release.template,
    )


def _require_fit(name: str, text: str, file: Path, settings: Settings) -> None:
    """Look what a run would look at before it starts a machine."""
    with tempfile.TemporaryDirectory(prefix="builder-recipe-") as folder:
        draft = Path(folder) / f"{name}{SUFFIX}"
        draft.write_text(text, encoding="utf-8")
        chosen = recipe.load(str(draft), {}, ())
    room = preflight.Room(chosen.machine.memory, chosen.disk.size, chosen.machine.firmware, release=chosen.facts)
    preflight.require(kickstart_preview.preview(chosen, settings), file, room)


def _urls(name: str, sha256: str, search: Sequence[Path]) -> tuple[str, ...]:
    """Return the URLs that known recipes give for an ISO of this name, unless they name another sha256 of it."""
    found: dict[str, None] = {}
    for path in recipe.find_all(tuple(search)).values():
        try:
            media = recipe.load(str(path), {}, ()).media
        except RecipeError:
            continue
        fitting = [source for source in media.sources if source.sha256 in (None, sha256)] if media else []
        urls = [url for source in fitting for url in source.urls]
        found |= dict.fromkeys(url for url in urls if url.rpartition("/")[2] == name)
    return tuple(found)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
