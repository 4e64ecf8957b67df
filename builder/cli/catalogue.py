"""The one rule: the catalogue is shown as it is on disk; looking at it changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.output import document, lines, write
from builder.cli.state import Json, State, short

if TYPE_CHECKING:
    from builder.images import Image

images = typer.Typer(help="Golden images that were published.", rich_markup_mode=None, no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    images.command("list")(list_)
    images.command("show")(show)
    app.add_typer(images, name="images")


def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List all versions of all images, the newest first."""
    from builder import console
    from builder.images import list_images

    found = list_images(ctx.ensure_object(State).settings().images)
    if as_json:
        document([_facts(image) for image in found])
    elif not found:
        lines(["no images"])
    else:
        rows = [
            [image.name, image.version, "*" if image.latest else "", _size(image), _moment(image)] for image in found
        ]
        write(console.table(["NAME", "VERSION", "LATEST", "SIZE", "CREATED (UTC)"], rows, right=(3,)))


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The latest version, or this one.")],
    as_json: Json = False,
) -> None:
    """Show one image and its files."""
    from builder import console
    from builder.images import load_image

    image = load_image(ctx.ensure_object(State).settings().images, name)
    if as_json:
        document({**_facts(image), "manifest": dict(image.manifest)})
        return
    lines(
        [
            f"image    {image.name}",
            f"version  {image.version}{' (latest)' if image.latest else ''}",
            f"created  {_moment(image)} UTC",
            f"disk     {short(image.disk)}",
            f"size     {_size(image)}",
            f"sha256   {image.sha256}",
            "",
        ]
    )
    files = image.manifest["files"]
    rows = [[console.size_text(int(facts["size"])), file] for file, facts in files.items()]
    write(console.table(["SIZE", "FILE"], rows, right=(0,)))


def _facts(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "version": image.version,
        "latest": image.latest,
        "created": image.manifest["created"],
        "disk": str(image.disk),
        "size": image.manifest["files"][image.disk.name]["size"],
        "sha256": image.sha256,
    }


def _size(image: Image) -> str:
    from builder import console

    return console.size_text(int(image.manifest["files"][image.disk.name]["size"]))


def _moment(image: Image) -> str:
    return str(image.manifest["created"])[:16].replace("T", " ")
