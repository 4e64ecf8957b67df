"""The one rule: the catalogue is shown as it is on disk, and changed only by the command that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.options import Json
from builder.cli.output import display_path, print_json, print_lines, write
from builder.cli.state import State
from builder.errors import RecipeError, VerifyError

if TYPE_CHECKING:
    from builder.images import Difference, Image, Proof

Spec = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The latest version, or this one.")]
Specs = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME[@VERSION]]...", help="Without any: all versions of all images.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Without any: all images.")]


def list_(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this image.")] = None,
    as_json: Json = False,
) -> None:
    """List all versions of all images, the newest first."""
    from builder import console
    from builder.images import list_images, load_image

    catalogue = ctx.ensure_object(State).settings().images
    if name is not None:
        load_image(catalogue, name)
    found = list_images(catalogue, name)
    if as_json:
        print_json([_facts(image) for image in found])
    elif not found:
        print_lines(["no images"])
    else:
        rows = [
            [image.name, image.version, "*" if image.latest else _mark(image), _size(image), _moment(image)]
            for image in found
        ]
        write(console.table(["NAME", "VERSION", "LATEST", "SIZE", "CREATED (UTC)"], rows, right=(3,)))


def show(ctx: typer.Context, name: Spec, as_json: Json = False) -> None:
    """Show one image, its files, its users and its proofs."""
    from builder import console
    from builder.images import load_image, proofs, users_of

    image = load_image(ctx.ensure_object(State).settings().images, name)
    uses = [use for use in users_of(image) if use.state != "gone"]
    shown = proofs(image.path)
    if as_json:
        told = {
            "users": [{"name": use.name, "state": use.state} for use in uses],
            "proofs": [_proof(proof) for proof in shown],
        }
        print_json({**_facts(image), **told, "manifest": dict(image.manifest)})
        return
    print_lines(
        [
            f"image    {image.name}",
            f"version  {image.version}{f' ({_mark(image)})' if _mark(image) else ''}",
            f"created  {_moment(image)} UTC",
            f"disk     {display_path(image.disk)}",
            f"size     {_size(image)}",
            f"sha256   {image.sha256}",
            f"users    {', '.join(use.name for use in uses) or 'none'}",
            *[f"proved   {proof.when[:16].replace('T', ' ')} UTC: {_verdict(proof)}" for proof in shown[-3:]],
            "",
        ]
    )
    files = image.manifest["files"]
    rows = [[console.size_text(int(facts["size"])), file] for file, facts in files.items()]
    write(console.table(["SIZE", "FILE"], rows, right=(0,)))


def diff(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="A", help="NAME[@VERSION]")],
    new: Annotated[str, typer.Argument(metavar="B", help="NAME[@VERSION], or @VERSION of A's name.")],
    as_json: Json = False,
) -> None:
    """Say what is different in image B, compared with image A."""
    from builder.images import compare, load_image

    catalogue = ctx.ensure_object(State).settings().images
    first = load_image(catalogue, old)
    found = compare(first, load_image(catalogue, f"{first.name}{new}" if new.startswith("@") else new))
    if as_json:
        print_json(found.as_dict())
    else:
        print_lines(_difference(found))


def verify(
    ctx: typer.Context,
    names: Specs = None,
    signed: Annotated[bool, typer.Option("--signed", help="Only what a trusted key has signed is good.")] = False,
    as_json: Json = False,
) -> None:
    """Read images again and compare with what was published."""
    from builder.images import prove, versions

    catalogue = ctx.ensure_object(State).settings().images
    found = [prove(path) for path in versions(catalogue, names or [])]
    if signed:
        lacking = ("signature: no key that you trust vouches for it",)
        found = [one if one.signers else replace(one, faults=one.faults + lacking) for one in found]
    if as_json:
        print_json([_proof(proof) for proof in found])
        if not all(proof.good for proof in found):
            raise typer.Exit(VerifyError.exit_code)
        return
    for proof in found:
        print_lines([f"{proof.name}@{proof.version}: {_verdict(proof)}"])
        print_lines(f"  proved: {line}" for line in proof.proved)
        print_lines(f"  not proved: {line}" for line in proof.unproven)
    bad = [proof for proof in found if not proof.good]
    if bad:
        raise VerifyError(
            f"{len(bad)} of {len(found)} version{'s' if len(found) > 1 else ''} failed",
            "\n".join(f"{proof.name}@{proof.version}: {line}" for proof in bad for line in proof.faults),
            "clones of a damaged version have to be made anew: builder images show NAME@VERSION names them\n"
            "and while it is the latest, new ones get it, too: builder images rollback NAME",
        )


def rollback(
    ctx: typer.Context,
    name: Spec,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Without one: the newest older version.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an older version the latest, and hold the one that was."""
    from builder.images import list_images, load_image, previous, roll_back

    catalogue = ctx.ensure_object(State).settings().images
    if version is not None and "@" in name:
        raise RecipeError(f"{name} {version}: two versions", hint="leave out one of them")
    spec = f"{name}@{version}" if version is not None else name
    target = load_image(catalogue, spec) if "@" in spec else previous(catalogue, name)
    left = next((image for image in list_images(catalogue, target.name) if image.latest), None)
    image = roll_back(catalogue, target)
    held = left if left is not None and left.version != image.version else None
    if as_json:
        print_json({**_facts(image), "held_version": held.version if held else None})
    elif held is None:
        print_lines([f"{image.name}@{image.version} is the latest"])
    else:
        print_lines(
            [
                f"{image.name}@{image.version} is the latest",
                f"{held.name}@{held.version} is held until: builder images release {held.name}@{held.version}",
            ]
        )


def release(ctx: typer.Context, name: Spec, as_json: Json = False) -> None:
    """Let a version that is held become the latest again."""
    from builder.images import held_version, load_image
    from builder.images import release as let_go

    catalogue = ctx.ensure_object(State).settings().images
    image = let_go(catalogue, load_image(catalogue, name) if "@" in name else held_version(catalogue, name))
    if as_json:
        print_json(_facts(image))
    else:
        more = "is the latest" if image.latest else "is held no more; a newer version is the latest"
        print_lines([f"{image.name}@{image.version} {more}"])


def prune(
    ctx: typer.Context,
    names: Names = None,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="Versions of each image that stay.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old versions; not the latest, nor what is held or used."""
    from builder import console, images
    from builder.images.catalogue import folders

    catalogue = ctx.ensure_object(State).settings().images
    for name in names or []:
        images.load_image(catalogue, name.partition("@")[0])
        if "@" in name:
            raise RecipeError(f"{name}: prune takes names without versions", hint="builder images prune NAME --keep N")
    done = images.prune(catalogue, names or folders(catalogue), keep, dry_run=dry_run)
    if as_json:
        kept = [{"name": image.name, "version": image.version, "why": why} for image, why in done.kept]
        removed = [{"name": image.name, "version": image.version} for image in done.removed]
        print_json({"dry_run": dry_run, "removed": removed, "kept": kept, "bytes": done.freed})
        return
    word = "would be removed" if dry_run else "removed"
    rows = [[image.name, image.version, word] for image in done.removed]
    rows += [[image.name, image.version, f"stays: {why}"] for image, why in done.kept]
    if rows:
        write(console.table(["NAME", "VERSION", ""], rows))
    if not dry_run:
        print_lines([f"{console.size_text(done.freed)} freed"] if done.removed else ["nothing to remove"])


def export(
    ctx: typer.Context,
    name: Spec,
    kind: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="qcow2, raw, vmdk, vhdx, vdi, or vagrant: a libvirt box.")
    ] = "qcow2",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Without one: NAME-VERSION.FORMAT, here.")
    ] = None,
    zstd: Annotated[bool, typer.Option("--zstd", help="Smaller; QEMU before 5.1 cannot open it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write an image in another format, and read it back."""
    from builder import console, images

    if kind not in images.KINDS:
        raise RecipeError(f"there is no format {kind}", hint=f"formats: {', '.join(images.KINDS)}")
    if zstd and kind not in ("qcow2", "vagrant"):
        raise RecipeError(f"--zstd has no meaning for {kind}")
    image = images.load_image(ctx.ensure_object(State).settings().images, name)
    chosen: Any = kind
    target = output or Path(images.default_name(image, chosen))
    with console.watcher(as_json=as_json) as watched:
        target = images.export(
            image,
            chosen,
            target,
            compression="zstd" if zstd else "zlib",
            force=force,
            tell=lambda what, percent: watched.beat(f"{what}: {percent:.0f} %" if percent else what),
        )
    size = target.stat().st_size
    if as_json:
        print_json({"name": image.name, "version": image.version, "format": kind, "path": str(target), "size": size})
        return
    print_lines([f"{display_path(target)}: {console.size_text(size)}, {kind}, holds {image.name}@{image.version}"])


def _facts(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "version": image.version,
        "latest": image.latest,
        "held": image.held,
        "created": image.manifest["created"],
        "disk": str(image.disk),
        "size": image.manifest["files"][image.disk.name]["size"],
        "sha256": image.sha256,
    }


def _proof(proof: Proof) -> dict[str, Any]:
    return {
        "name": proof.name,
        "version": proof.version,
        "when": proof.when,
        "good": proof.good,
        "faults": list(proof.faults),
        "unproven": list(proof.unproven),
        "signers": list(proof.signers),
        "proved": list(proof.proved),
    }


def _verdict(proof: Proof) -> str:
    if proof.good:
        return f"good, signed by {', '.join(proof.signers)}" if proof.signers else "good"
    return f"{len(proof.faults)} fault{'s' if len(proof.faults) > 1 else ''}"


def _difference(found: Difference) -> list[str]:
    """For people: what went with a minus, what came with a plus, what changed with an arrow."""
    from builder import console

    told = [
        f"A        {found.old.name}@{found.old.version}  {_moment(found.old)}",
        f"B        {found.new.name}@{found.new.version}  {_moment(found.new)}",
    ]
    if found.same:
        return [*told, "the same"]
    for kind, changes in found.sets.items():
        if changes:
            told += [
                "",
                f"{kind}: {len(changes.added)} added, {len(changes.removed)} removed, {len(changes.updated)} updated",
            ]
            told += [f"  + {one}" for one in changes.added]
            told += [f"  - {one}" for one in changes.removed]
            told += [f"  {name} {one} -> {other}" for name, one, other in changes.updated]
    told += ["", *[f"{name}: {one} -> {other}" for name, (one, other) in found.values.items()]]
    texts = {"size": console.size_text, "virtual_size": console.size_text, "boot": console.time_text}
    for name, both in found.numbers.items():
        told.append(f"{name.replace('_', ' ')}: {_arrow(both, texts.get(name, lambda count: str(count)))}")
    told += [f"stage {name}: {_arrow(both, console.time_text)}" for name, both in found.stages.items()]
    told += [f"{kind}: no record of them in {', '.join(who)}" for kind, who in found.unknown.items()]
    return told


def _arrow(both: tuple[float | None, float | None], text: Any) -> str:
    one, other = ("unknown" if number is None else str(text(number)) for number in both)
    return one if one == other else f"{one} -> {other}"


def _mark(image: Image) -> str:
    return "latest" if image.latest else "held" if image.held else ""


def _size(image: Image) -> str:
    from builder import console

    return console.size_text(int(image.manifest["files"][image.disk.name]["size"]))


def _moment(image: Image) -> str:
    return str(image.manifest["created"])[:16].replace("T", " ")
