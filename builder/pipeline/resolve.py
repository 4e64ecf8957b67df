"""Resolving a recipe: every choice it leaves open is made here, before planning, without network.

Which medium: a `--media` file by its content; else the recipe's first source that the store has; else the first
listed. A rehearsal is made only when it is asked for by name, and keeps its own name in the catalogue.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import images
from builder.errors import MediumError, RecipeError
from builder.iso import inspect
from builder.kickstart import preflight, render
from builder.pipeline import own_kickstart
from builder.recipe import REHEARSAL, Recipe, provision_files
from builder.recipe.build_spec import Base, BuildSpec, Medium
from builder.rehearsal import medium as rehearsal
from builder.settings import BuildOptions, MediumSource, OwnKickstart, Paths, Settings, Timeouts
from builder.stages import fetch
from builder.store.secrets import StoredSecrets
from builder.store.store import Store

ASKED = "rehearsal"


@dataclass(frozen=True)
class Resolved:
    """A build that can be planned: what is to be built, where its medium comes from, and its secrets."""

    spec: BuildSpec
    build: BuildOptions
    secrets: StoredSecrets


def resolve(recipe: Recipe, media: str | None, store: Store, settings: Settings, *, peek: bool = False) -> Resolved:
    """Make the choices that a recipe leaves open.

    Args:
        media: value of `--media`: `rehearsal`, the path of an ISO, or None.
        peek: write nothing (`builder plan`); a password that was not made yet counts as a new one.

    Raises:
        MediumError: the file is not an ISO, is truncated, is of another release, or is not a medium that the recipe
            names.
        PublishError: there is no image that it builds on.
        VerifyError: that image's manifest cannot be used, or it is not signed and has to be.
        RecipeError: the recipe names no medium's sha256; a template is missing, or something to provision with.
    """
    base = _base(recipe, media, settings)
    if base is None:
        medium, source = _choose(recipe, media, store, settings, peek=peek)
    else:
        medium = Medium(None, rehearsal=base.sha256 if base.facts.rehearsal else None)
        source = MediumSource()
    owner = _owner(recipe, base, store)
    secrets = StoredSecrets(store, owner, settings.root_password_file, peek=peek)
    provision_files.check_scripts(recipe.provision.scripts, settings.provisions)
    own: OwnKickstart | None = None
    templates: dict[str, str] = {}
    if base is None and recipe.kickstart.file is not None:
        own, templates = own_kickstart.load(recipe.kickstart, (*settings.templates, *settings.recipes))
    elif base is None:
        templates = render.collect(recipe.kickstart.entry, settings.templates)
    spec = BuildSpec(
        name=recipe.image + (REHEARSAL if medium.rehearsal else ""),
        recipe=recipe,
        medium=medium,
        templates=templates,
        password_mac=secrets.mac(secrets.root_crypt),
        secrets_of=owner,
        base=Base(f"{base.name}@{base.version}", base.sha256) if base else None,
        own_mac=secrets.mac(own.content) if own else "",
        provisions=provision_files.collect(recipe.provision.sources, settings.provisions),
    )
    limits = recipe.limits
    timeouts = Timeouts(limits.install, limits.quiet, limits.boot)
    return Resolved(spec, BuildOptions(source, timeouts, own), secrets)


def _base(recipe: Recipe, media: str | None, settings: Settings) -> images.Image | None:
    """The published image that the recipe builds on; a rehearsal of it where one was asked for."""
    if recipe.from_ is None:
        return None
    if media not in (None, ASKED):
        raise RecipeError(f"{recipe.name} is built on {recipe.from_}: it has no use for --media {media}")
    name, at, version = recipe.from_.partition("@")
    image = images.load_image(settings.images, f"{name}{REHEARSAL if media else ''}{at}{version}")
    if settings.require_signed:
        images.require_signed(image.path)
    return image


def _owner(recipe: Recipe, base: images.Image | None, store: Store) -> str:
    """The recipe whose root password the image has.

    One password for a recipe, its variants and its rehearsals: the kickstart is the same bytes for both media. What is
    built on an image of this store has that image's password. What the manifest of a pulled image says chooses none of
    this store's secrets: `verify` would type it at the console of a guest that others made.
    """
    if base is None or not images.built_here(base.name, base.sha256, base.origin, store):
        return recipe.name
    return base.facts.secrets_of or base.facts.recipe or recipe.name


def _choose(
    recipe: Recipe, media: str | None, store: Store, paths: Paths, *, peek: bool
) -> tuple[Medium, MediumSource]:
    if media == ASKED:
        return Medium(None, rehearsal=rehearsal.inputs_digest(paths.artifacts / ".cache")), MediumSource()
    # By sha256, the preferred one first.
    known = {source.sha256: source.urls for source in recipe.media.sources if source.sha256}
    if media is not None:
        path = existing_medium(Path(media), paths)
        medium = _from_file(recipe, path, known, store, peek=peek)
        # Not for the medium, which is here: for the vendor's list of checksums.
        return medium, MediumSource(path, known.get(medium.sha256 or "", ()))
    if not known:
        raise _no_sum(recipe, "FILE")
    for sha256, urls in known.items():
        if any(store.path(name).exists() for name in fetch.objects_of(sha256, recipe.media)):
            return Medium(sha256), MediumSource(None, urls)
    for sha256, urls in known.items():
        kept = _kept(sha256, urls, store, paths)
        if kept is not None:
            return Medium(sha256), MediumSource(kept, urls)
    sha256, urls = next(iter(known.items()))
    return Medium(sha256), MediumSource(None, urls)


def _no_sum(recipe: Recipe, file: str) -> RecipeError:
    """Say how a recipe without any sha256 becomes one that is built."""
    urls = "\n".join(url for source in recipe.media.sources for url in source.urls)
    return RecipeError(
        f"the recipe {recipe.name} names no sha256 of its medium",
        f"nobody who had this ISO has confirmed one; it is said to be at\n{urls}",
        f"builder recipes new my-{recipe.name} --like {recipe.name} --media {file}",
    )


def _kept(sha256: str, urls: Sequence[str], store: Store, paths: Paths) -> Path | None:
    """The vendor's file among the host's install media; only what bears its name is read, which may take seconds."""
    for name in dict.fromkeys(url.rpartition("/")[2] for url in urls):
        path = paths.media / name
        if name and path.is_file() and store.sha256_of(path) == sha256:
            return path
    return None


def existing_medium(path: Path, paths: Paths) -> Path:
    """Return the file itself, else the one of this name among the host's install media.

    Raises:
        MediumError: there is none.
    """
    kept = paths.media / path
    found = kept if not path.exists() and kept.is_file() else path
    if not found.is_file():
        what = "not a file" if found.exists() else "no such file"
        raise MediumError(f"{what}: {found}", hint=f"--media takes an ISO file, or the word {ASKED}")
    return found


def _from_file(recipe: Recipe, path: Path, known: Collection[str], store: Store, *, peek: bool) -> Medium:
    facts = inspect.inspect(path)
    preflight.require_release(facts, recipe.facts)
    if not known and not facts.is_rehearsal:
        raise _no_sum(recipe, str(path))
    if not peek:
        # So that the digest is remembered: `fetch` wants it next.
        store.prepare()
    found = store.sha256_of(path)
    if facts.is_rehearsal:
        return Medium(found, rehearsal=found)
    if found not in known:
        wanted = "\n".join(f"sha256 expected {sha}" for sha in known)
        raise MediumError(
            f"{path} is not a medium that the recipe {recipe.name} names",
            f"sha256 found    {found}\n{wanted}",
            "compare with the vendor's list of checksums; to accept this one, add it to media.sources of the recipe",
        )
    return Medium(found)
