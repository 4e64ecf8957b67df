"""The commands `builder images`, except push and pull (`builder.cli.registry`).

Invariant: only a command that says so changes the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import console, images
from builder.cli.options import DryRun, Force, ImageSpec, Json, Signed
from builder.cli.output import display_path, emit, note
from builder.cli.state import State
from builder.clones import warm
from builder.errors import RecipeError, VerifyError
from builder.images import Difference, Image, VerificationResult
from builder.images import export as exporting
from builder.images.catalogue import folders, require_name
from builder.images.export import Kind
from builder.images.origins import LOCAL
from builder.store.store import Store

Specs = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME[@VERSION]]...", help="Images (default: all versions of all).")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of images (default: all).")]


def list_(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="List only this image.")] = None,
    as_json: Json = False,
) -> None:
    """List all versions of all images, the newest first."""
    catalogue = ctx.ensure_object(State).settings().images
    if name is not None:
        require_name(catalogue, name)
    versions, faults = images.survey(catalogue, name)
    for fault in faults:
        note(fault.brief)
    rows = [
        [image.name, image.version, "*" if image.latest else _mark(image), _size(image), _moment(image)]
        for image in versions
    ]
    heads = ["NAME", "VERSION", "LATEST", "SIZE", "CREATED (UTC)"]
    emit(
        [_facts(image) for image in versions],
        console.table(heads, rows, right=(3,)) if rows else "no images\n",
        as_json,
    )


def show(ctx: typer.Context, name: ImageSpec, as_json: Json = False) -> None:
    """Show one image, its files, its users and its proofs."""
    settings = ctx.ensure_object(State).settings()
    image = images.load_image(settings.images, name)
    states = [state for state in warm.states(Store(settings.store)) if state.inputs.sha256 == image.sha256]
    users = [use for use in images.users_of(image) if use.state != "gone"]
    results = images.verifications(image.path)
    for warning in images.unreadable_verifications(image.path):
        note(f"warning: {warning}")
    facts = {
        "users": [{"name": use.name, "state": use.state} for use in users],
        "proofs": [_result_facts(result) for result in results],
        "warm": [{"digest": state.digest, "created": state.created, "bytes": state.bytes} for state in states],
    }
    files = [[console.size_text(file.size), path] for path, file in image.facts.files.items()]
    text = [
        f"image    {image.name}",
        f"version  {image.version}{f' ({_mark(image)})' if _mark(image) else ''}",
        f"created  {_moment(image)} UTC{'' if image.facts.credible else ', which is in the future'}",
        *([f"origin   {_origin(image)}"] if image.origin else []),
        f"disk     {display_path(image.disk)}",
        f"size     {_size(image)}",
        f"sha256   {image.sha256}",
        f"users    {', '.join(use.name for use in users) or 'none'}",
        *[f"warm     {state.shape}, {console.size_text(state.bytes)}" for state in states],
        *[f"verified {result.when[:16].replace('T', ' ')} UTC: {_verdict(result)}" for result in results[-3:]],
        "",
        *console.table(["SIZE", "FILE"], files, right=(0,)).splitlines(),
    ]
    emit({**_facts(image), **facts, "manifest": dict(image.manifest)}, text, as_json)


def diff(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="A", help="NAME[@VERSION]")],
    new: Annotated[str, typer.Argument(metavar="B", help="NAME[@VERSION], or @VERSION of A's name.")],
    as_json: Json = False,
) -> None:
    """Show how image B differs from image A."""
    catalogue = ctx.ensure_object(State).settings().images
    first = images.load_image(catalogue, old)
    difference = images.compare(
        first, images.load_image(catalogue, f"{first.name}{new}" if new.startswith("@") else new)
    )
    emit(difference.as_dict(), _difference_lines(difference), as_json)


def verify(ctx: typer.Context, names: Specs = None, signed: Signed = False, as_json: Json = False) -> None:
    """Read images again and compare with what was published."""
    settings = ctx.ensure_object(State).settings()
    signed = signed or settings.require_signed
    results: list[VerificationResult] = []
    for path in images.versions(settings.images, names or []):
        result = images.verify_version(path)
        results.append(images.require_signature(result) if signed else result)
    bad = [result for result in results if not result.good]
    text = [line for result in results for line in _result_lines(result)]
    emit([_result_facts(result) for result in results], text, as_json)
    if bad and as_json:
        raise typer.Exit(VerifyError.exit_code)
    if bad:
        raise VerifyError(
            f"{len(bad)} of {len(results)} version{'s' if len(results) > 1 else ''} failed",
            "\n".join(f"{result.name}@{result.version}: {line}" for result in bad for line in result.faults),
            "clones of a damaged version must be created again: builder images show NAME@VERSION names them\n"
            "as long as it is the latest, new clones get it, too: builder images rollback NAME",
        )


def rollback(
    ctx: typer.Context,
    name: ImageSpec,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Go back to this one (default: the newest older version).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an older version the latest, and hold the one that was."""
    catalogue = ctx.ensure_object(State).settings().images
    if version is not None and "@" in name:
        raise RecipeError(f"{name} {version}: two versions", hint="leave out one of them")
    spec = f"{name}@{version}" if version is not None else name
    target = images.load_image(catalogue, spec) if "@" in spec else images.previous(catalogue, name)
    image, held = images.roll_back(catalogue, target)
    text = [f"{image.name}@{image.version} is the latest"]
    if held is not None:
        text.append(f"{image.name}@{held} is held until: builder images release {image.name}@{held}")
    emit({**_facts(image), "held_version": held}, text, as_json)


def release(ctx: typer.Context, name: ImageSpec, as_json: Json = False) -> None:
    """Let a version that is held become the latest again."""
    catalogue = ctx.ensure_object(State).settings().images
    held = images.load_image(catalogue, name) if "@" in name else images.held_version(catalogue, name)
    image = images.release(catalogue, held)
    more = "is the latest" if image.latest else "is not held any more; a newer version is the latest"
    emit(_facts(image), [f"{image.name}@{image.version} {more}"], as_json)


def prune(
    ctx: typer.Context,
    names: Names = None,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="Keep this many versions of each image.")] = 7,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove old versions; not the latest, nor what is held or used."""
    settings = ctx.ensure_object(State).settings()
    catalogue = settings.images
    for name in names or []:
        require_name(catalogue, name.partition("@")[0])
        if "@" in name:
            raise RecipeError(f"{name}: prune takes names without versions", hint="builder images prune NAME --keep N")
    done = images.prune(catalogue, names or folders(catalogue), keep, dry_run=dry_run)
    freed = done.freed + (0 if dry_run else warm.drop_orphans(Store(settings.store)))
    facts = {
        "dry_run": dry_run,
        "removed": [{"name": image.name, "version": image.version} for image in done.removed],
        "kept": [{"name": image.name, "version": image.version, "why": why} for image, why in done.kept],
        "bytes": freed,
    }
    word = "would be removed" if dry_run else "removed"
    rows = [[image.name, image.version, word] for image in done.removed]
    rows += [[image.name, image.version, f"stays: {why}"] for image, why in done.kept]
    text = console.table(["NAME", "VERSION", ""], rows) if rows else ""
    if not dry_run:
        text += f"{console.size_text(freed)} freed\n" if done.removed else "nothing to remove\n"
    emit(facts, text, as_json)


def export(
    ctx: typer.Context,
    name: ImageSpec,
    kind: Annotated[
        Kind, typer.Option("--format", help="Write this format; vagrant is a box for the libvirt provider.")
    ] = "qcow2",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here (default: NAME-VERSION.FORMAT).")
    ] = None,
    zstd: Annotated[
        bool, typer.Option("--zstd", help="Compress better; QEMU before 5.1 cannot open the result.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an image in another format, and read it back."""
    if zstd and kind not in ("qcow2", "vagrant"):
        raise RecipeError(f"--zstd has no meaning for {kind}")
    image = images.load_image(ctx.ensure_object(State).settings().images, name)
    with console.watcher(as_json=as_json) as watcher:
        target = exporting.export(
            image,
            kind,
            output or Path(exporting.default_name(image, kind)),
            compression="zstd" if zstd else "zlib",
            force=force,
            on_progress=lambda what, percent: watcher.beat(f"{what}: {percent:.0f} %" if percent else what),
        )
    size = target.stat().st_size
    facts = {"name": image.name, "version": image.version, "format": kind, "path": str(target), "size": size}
    holds = f"holds {image.name}@{image.version}"
    emit(facts, [f"{display_path(target)}: {console.size_text(size)}, {kind}, {holds}"], as_json)


def _facts(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "version": image.version,
        "latest": image.latest,
        "held": image.held,
        "created": image.manifest["created"],
        "origin": image.origin,
        "disk": str(image.disk),
        "size": image.size,
        "sha256": image.sha256,
    }


def _result_facts(result: VerificationResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "version": result.version,
        "when": result.when,
        "good": result.good,
        "faults": list(result.faults),
        "skipped": list(result.skipped),
        "signers": list(result.signers),
        "passed": list(result.passed),
    }


def _result_lines(result: VerificationResult) -> list[str]:
    return [
        f"{result.name}@{result.version}: {_verdict(result)}",
        *(f"  passed: {line}" for line in result.passed),
        *(f"  skipped: {line}" for line in result.skipped),
    ]


def _verdict(result: VerificationResult) -> str:
    if result.good:
        return f"good, signed by {', '.join(result.signers)}" if result.signers else "good"
    return f"{len(result.faults)} fault{'s' if len(result.faults) > 1 else ''}"


def _difference_lines(difference: Difference) -> list[str]:
    """Describe a difference for people: - was removed, + was added, -> was changed."""
    old, new = difference.old, difference.new
    text = [
        f"A        {old.name}@{old.version}  {_moment(old)}",
        f"B        {new.name}@{new.version}  {_moment(new)}",
    ]
    if difference.same:
        return [*text, "the same"]
    for kind, changes in difference.sets.items():
        if changes:
            counts = f"{len(changes.added)} added, {len(changes.removed)} removed, {len(changes.updated)} updated"
            text += ["", f"{kind}: {counts}"]
            text += [f"  + {item}" for item in changes.added]
            text += [f"  - {item}" for item in changes.removed]
            text += [f"  {name} {before} -> {after}" for name, before, after in changes.updated]
    text += ["", *[f"{name}: {before} -> {after}" for name, (before, after) in difference.values.items()]]
    formats: dict[str, Callable[[Any], str]] = {
        "size": console.size_text,
        "virtual_size": console.size_text,
        "boot": console.time_text,
    }
    for name, both in difference.numbers.items():
        text.append(f"{name.replace('_', ' ')}: {_arrow(both, formats.get(name, str))}")
    text += [f"stage {name}: {_arrow(both, console.time_text)}" for name, both in difference.stages.items()]
    text += [f"{kind}: no record of them in {', '.join(names)}" for kind, names in difference.unknown.items()]
    return text


def _arrow(both: tuple[float | None, float | None], text: Callable[[Any], str]) -> str:
    before, after = ("unknown" if number is None else text(number) for number in both)
    return before if before == after else f"{before} -> {after}"


def _mark(image: Image) -> str:
    return "latest" if image.latest else "held" if image.held else ""


def _origin(image: Image) -> str:
    return "built here" if image.origin == LOCAL else f"oci://{image.origin}"


def _size(image: Image) -> str:
    return console.size_text(image.size)


def _moment(image: Image) -> str:
    return f"{image.facts.created.astimezone(UTC):%Y-%m-%d %H:%M}"
