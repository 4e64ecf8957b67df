"""Roll `latest` back to an older version, and hold the one it leaves until that is released."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from builder.errors import PublishError
from builder.images import holds, origins
from builder.images.catalogue import Image, changing, latest_of, list_images, load_image, point, require_name


def roll_back(catalogue: Path, image: Image) -> tuple[Image, str | None]:
    """Make this version the latest of its name, and hold the one that was.

    Returns:
        The image as it is now, and the version that is held for it; None if it was the latest already.

    Raises:
        PublishError: the version is gone, or the catalogue cannot be written to.
    """
    folder = catalogue / image.name
    with _written(folder), changing(folder):
        _require(image)
        left = latest_of(folder)
        if left == image.version or (left is not None and not (folder / left).is_dir()):
            left = None
        if left is not None:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holds.hold(folder, left, holds.Hold(since, image.version))
        # Between the two a hold on the latest version means nothing: see `holds.repair`.
        point(folder, image.version)
        holds.drop(folder, image.version)
    return load_image(catalogue, f"{image.name}@{image.version}"), left


def previous(catalogue: Path, name: str) -> Image:
    """The newest version that is older than the latest one, from where that is from, and not held.

    Where the manifest of the latest version cannot be read, nothing is known of its age, and the newest one is meant.

    Raises:
        PublishError: there is none.
    """
    require_name(catalogue, name)
    images = list_images(catalogue, name)
    at = next((number for number, image in enumerate(images) if image.latest), None)
    if at is None:
        latest = latest_of(catalogue / name)
        if latest is None or not (catalogue / name / latest).is_dir():
            load_image(catalogue, name)
        origin = origins.read(catalogue / name).get(latest or "")
    else:
        origin = images[at].origin
    after = images if at is None else images[at + 1 :]
    older = [image for image in after if not image.held and image.origin == origin]
    if not older:
        known = ", ".join(image.version for image in images)
        raise PublishError(f"image {name} has no older version to go back to", f"versions: {known}")
    return older[0]


def release(catalogue: Path, image: Image) -> Image:
    """Lift the hold of a version; it is the latest again where the one it gave way to still is.

    Raises:
        PublishError: it is not held, or the catalogue cannot be written to.
    """
    folder = catalogue / image.name
    with _written(folder), changing(folder):
        _require(image)
        held = holds.read(folder)
        hold = held.pop(image.version, None)
        if hold is None:
            raise PublishError(
                f"{image.name}@{image.version} is not held",
                f"held: {', '.join(sorted(held)) or 'none'}",
                "builder images list",
            )
        if latest_of(folder) == hold.gave_way_to:
            point(folder, image.version)
        holds.drop(folder, image.version)
    return load_image(catalogue, f"{image.name}@{image.version}")


def held_version(catalogue: Path, name: str) -> Image:
    """The one version of this name that is held.

    Raises:
        PublishError: there is none, or there are several.
    """
    require_name(catalogue, name)
    held = [image for image in list_images(catalogue, name) if image.held]
    if len(held) != 1:
        versions = ", ".join(image.version for image in held)
        raise PublishError(
            f"image {name} has {'several versions that are held' if held else 'no version that is held'}",
            f"held: {versions}" if held else "",
            f"builder images release {name}@VERSION" if held else "",
        )
    return held[0]


def _require(image: Image) -> None:
    if not image.path.is_dir():
        raise PublishError(f"{image.name}@{image.version} is gone", hint=f"builder images list {image.name}")


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise PublishError(f"{folder} cannot be written to: {fault.strerror or fault}", str(fault)) from fault
