"""Resolving a recipe: every choice it leaves open is made here, before planning, without network.

Which medium: a `--media` file by its content; else the recipe's first source that the store has; else the first
listed. A rehearsal is made only when it is asked for by name, and keeps its own name in the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder import images
from builder.errors import MediumError, RecipeError
from builder.iso import inspect
from builder.kickstart import render
from builder.pipeline import own_kickstart
from builder.recipe import REHEARSAL, Recipe, Source, provision_files
from builder.recipe.build_spec import Base, BuildSpec, Medium
from builder.rehearsal import medium as rehearsal
from builder.settings import BuildOptions, MediumSource, OwnKickstart, Paths, Settings, Timeouts
from builder.stages import fetch
from builder.store.secrets import Secrets
from builder.store.store import Store

ASKED = "rehearsal"


@dataclass(frozen=True)
class Resolved:
    """A build that can be planned: what is to be built, where its medium comes from, and its secrets."""

    spec: BuildSpec
    build: BuildOptions
    secrets: Secrets


def resolve(recipe: Recipe, media: str | None, store: Store, settings: Settings, *, peek: bool = False) -> Resolved:
    """Make the choices that a recipe leaves open.

    Args:
        media: value of `--media`: `rehearsal`, the path of an ISO, or None.
        peek: write nothing (`builder plan`); a password that was not made yet counts as a new one.

    Raises:
        MediumError: the file is not an ISO, is truncated, or is not a medium that the recipe names.
        PublishError: there is no image that it builds on.
        VerifyError: that image's manifest cannot be used, or it is not signed and has to be.
        RecipeError: a template is missing, or something to provision with.
    """
    base = _base(recipe, media, settings)
    if base is None:
        medium, source = _choose(recipe, media, store, settings)
    else:
        medium = Medium(None, rehearsal=base.sha256 if base.facts.rehearsal else None)
        source = MediumSource()
    owner = _owner(recipe, base, store)
    secrets = Secrets(store, owner, settings.root_password_file, peek=peek)
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


def _choose(recipe: Recipe, media: str | None, store: Store, paths: Paths) -> tuple[Medium, MediumSource]:
    if media == ASKED:
        return Medium(None, rehearsal.inputs_digest(paths.artifacts / ".cache")), MediumSource()
    sources = recipe.media.sources
    if media is not None:
        path = existing_medium(Path(media), paths)
        medium = _from_file(recipe, path, store)
        # Not for the medium, which is here: for the vendor's list of signed checksums.
        urls = next((source.urls for source in sources if source.sha256 == medium.sha256), ())
        return medium, MediumSource(path, urls)
    for source in sources:
        if any(store.path(name).exists() for name in fetch.objects_of(source.sha256, recipe.media.signed_by)):
            return Medium(source.sha256), MediumSource(None, source.urls)
    for source in sources:
        kept = _kept(source, store, paths)
        if kept is not None:
            return Medium(source.sha256), MediumSource(kept, source.urls)
    if not sources[0].urls:
        hint = f"give it with --media FILE, or add it: builder media add FILE\nsha256 {sources[0].sha256}"
        raise MediumError(f"the medium of {recipe.name} is not in the store, and the recipe names no mirror", hint=hint)
    return Medium(sources[0].sha256), MediumSource(None, sources[0].urls)


def _kept(source: Source, store: Store, paths: Paths) -> Path | None:
    """The vendor's file among the host's install media; only what bears its name is read, which may take seconds."""
    for name in dict.fromkeys(url.rpartition("/")[2] for url in source.urls):
        path = paths.media / name
        if name and path.is_file() and store.sha256_of(path) == source.sha256:
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


def _from_file(recipe: Recipe, path: Path, store: Store) -> Medium:
    facts = inspect.inspect(path)
    found = store.sha256_of(path)
    if facts.is_rehearsal:
        return Medium(found, rehearsal=found)
    known = [source.sha256 for source in recipe.media.sources]
    if found not in known:
        wanted = "\n".join(f"sha256 expected {sha}" for sha in known)
        raise MediumError(
            f"{path} is not a medium that the recipe {recipe.name} names",
            f"sha256 found    {found}\n{wanted}",
            "compare with the vendor's sha256sum.txt; to accept this one, add it to media.sources of the recipe",
        )
    return Medium(found)
