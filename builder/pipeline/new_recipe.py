"""Write a recipe for an install ISO that is at hand, with the ISO's own sha256.

Invariant: the recipe that is written can be built: the ISO is whole by the checksum that its vendor implanted, it is of
the release, and it has the packages that the kickstart wants.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from builder import recipe
from builder.errors import MediumError, RecipeError
from builder.iso import inspect
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


def write(
    name: str, release: Release, file: Path, settings: Settings, *, like: str | None = None, force: bool
) -> NewRecipe:
    """Write `pipelines/NAME.yaml` below the working directory.

    Args:
        file: the ISO; all of it is read.
        like: a recipe of the release, of which all but name and medium is taken; else the release's minimal one.
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
    about = _About(name, _one_line(facts.product or facts.volume_id), _one_line(file.name), sha256)
    urls = _urls(file.name, sha256, settings.recipes)
    text = _minimal(about, release, urls) if like is None else _like(about, like, urls, settings.recipes)
    _require_fit(name, text, file, settings)
    FOLDER.mkdir(exist_ok=True)
    with atomic_file.replacing(path) as draft:
        draft.write(text.encode())
    return NewRecipe(path, sha256)


@dataclass(frozen=True)
class _About:
    """What a recipe says of itself and its ISO."""

    name: str
    product: str
    file: str
    sha256: str


def _minimal(about: _About, release: Release, urls: Sequence[str]) -> str:
    mirrors = "".join(f"        - {url}\n" for url in urls)
    facts = asdict(about) | {"release": release.name, "template": release.template}
    return TEXT.format(**facts, urls=f"      urls:\n{mirrors}" if mirrors else "")


def _like(about: _About, like: str, urls: Sequence[str], search: Sequence[Path]) -> str:
    """Return another recipe's text, comments and all, with this name and medium."""
    yaml = YAML()
    yaml.width = 4096
    document = yaml.load(recipe.text_of(like, tuple(search)))
    if "media" not in document:
        raise RecipeError(
            f"the recipe {like} installs from no ISO", hint="builder recipes new NAME --release NAME --media FILE"
        )
    document.ca.comment = None
    document.yaml_set_start_comment(
        f"{about.product}: as {like}, from the vendor's ISO.\n"
        f"The checksum that is implanted in {about.file} held when this was written.\n"
    )
    document["name"] = about.name
    document["media"]["sources"] = [{"sha256": about.sha256} | ({"urls": list(urls)} if urls else {})]
    written = StringIO()
    yaml.dump(document, written)
    return written.getvalue()


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
