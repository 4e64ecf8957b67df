"""The warm state of a version that was just published, where its recipe says `warm: true`."""

from __future__ import annotations

from builder.clones.create import CreateOptions
from builder.clones.request import CloneRequest
from builder.clones.store import CloneStore
from builder.errors import HostError
from builder.images import Image
from builder.settings import Settings
from builder.stage import Progress


def warm_up(image: Image, settings: Settings, progress: Progress) -> None:
    """Make the state for clones without options, unless it is there; what is in the way of it undoes no publication."""
    options = CreateOptions(accel=settings.accel, report=progress.note)
    try:
        with (
            CloneStore(settings.vms, settings.images, settings.uri) as store,
            store.warm_state(image, CloneRequest("warm"), options, settings),
        ):
            pass
    except HostError as fault:
        progress.note(f"published without a warm state: {fault.brief}; builder images warm {image.name} tries again")
