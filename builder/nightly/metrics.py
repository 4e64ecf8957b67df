"""Metrics of a night in Prometheus' text format, for the text-file collector of the node exporter.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, and points in time as seconds since the
epoch, from which Prometheus computes ages.

Invariant: what is known of an image outlives a night that fails: it comes from the catalogue and from earlier nights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from builder import images
from builder.errors import RecipeError
from builder.images import Image
from builder.nightly.record import Night, Result, Verdict
from builder.system.atomic_file import replacing

# The collector reads no other files (node_exporter, README, "Textfile Collector").
SUFFIX = ".prom"


def check(path: Path) -> list[str]:
    """Check that a file for metrics can be written, before a night begins; returns warnings.

    Raises:
        RecipeError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise RecipeError(f"there is no folder {path.parent} for the metrics", hint=f"mkdir -p {path.parent}")
    return [] if path.suffix == SUFFIX else [f"{path}: the node exporter only reads files that end in {SUFFIX}"]


def write(path: Path, night: Night, earlier: Sequence[Night], catalogue: Path) -> None:
    """Write the metrics of a night, by one rename, so that the collector never reads half of them.

    Args:
        earlier: the nights before it.
        catalogue: folder of the images.

    Raises:
        HostError: the file cannot be written.
    """
    # Readable for the exporter, which runs as a user of its own; prometheus_client.write_to_textfile leaves that to
    # the umask, and reaches the disk some time later.
    with replacing(path) as file:
        file.write(render(night, earlier, catalogue))


def render(night: Night, earlier: Sequence[Night], catalogue: Path) -> bytes:
    """The metrics as text."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="builder", registry=registry)

    gauge("night_end_timestamp_seconds", "When the last night ended").set(_seconds(night.ended))
    gauge("night_duration_seconds", "How long the last night took").set(night.seconds)
    gauge("night_exit_code", "Exit code of the last night; 0: every image is good").set(night.exit_code)
    success = gauge(
        "image_last_success_timestamp_seconds", "When the image was last built or proved; 0: never", "image"
    )
    created = gauge("image_created_timestamp_seconds", "When the image's latest version was published", "image")
    age = gauge("image_age_seconds", "Age of the image's latest version when the last night ended", "image")
    size = gauge("image_size_bytes", "Size of the disk of the image's latest version", "image")
    for name in dict.fromkeys(result.name for result in night.results):
        latest = next((image for image in images.list_images(catalogue, name) if image.latest), None)
        success.labels(name).set(_last_success(name, [*earlier, night], latest))
        facts = _facts(name, [*earlier, night], latest)
        if facts is not None:
            created.labels(name).set(facts[0])
            age.labels(name).set(max(0.0, _seconds(night.ended) - facts[0]))
            size.labels(name).set(facts[1])
    verdict = gauge("build_verdict", "1 for the verdict of the last night on the build, else 0", "image", "verdict")
    failure = gauge("build_failure_info", "Why the last night's build failed", "image", "stage", "kind", "cause")
    took = gauge("build_duration_seconds", "How long the last night's build took", "image")
    stages = gauge("stage_duration_seconds", "How long a stage that ran in the last night took", "image", "stage")
    for result in night.results:
        for one in get_args(Verdict):
            verdict.labels(result.name, one).set(one == result.verdict)
        if result.fault is not None:
            failure.labels(result.name, result.fault.stage or "", result.fault.kind, result.fault.cause).set(1)
        took.labels(result.name).set(result.seconds)
        for stage in result.stages:
            if stage.start is not None:
                stages.labels(result.name, stage.stage).set(stage.seconds)
    return generate_latest(registry)


def _last_success(name: str, nights: Sequence[Night], latest: Image | None) -> float:
    """When an image of this name was last published, or proved again; 0 for never."""
    times = [
        _seconds(night.started) + result.start + result.seconds
        for night, result in _results(name, nights)
        if result.good
    ]
    if latest is not None:
        times.append(_seconds(str(latest.manifest["created"])))
        times += [_seconds(result.when) for result in images.verifications(latest.path) if result.good]
    return max(times, default=0.0)


def _facts(name: str, nights: Sequence[Night], latest: Image | None) -> tuple[float, int] | None:
    """When the latest version of an image was published, and its size in bytes; None when there is none.

    The images of a farm are in the catalogues of its workers: their facts come with the results.
    """
    if latest is not None:
        size = latest.manifest["files"][latest.disk.name].get("size", 0)
        return _seconds(str(latest.manifest["created"])), int(size)
    built = [result.image for _, result in _results(name, nights) if result.image is not None]
    return (_seconds(built[-1].created), built[-1].size) if built else None


def _results(name: str, nights: Sequence[Night]) -> Iterator[tuple[Night, Result]]:
    return ((night, result) for night in nights for result in night.results if result.name == name)


def _seconds(when: str) -> float:
    """Seconds since the epoch; 0 for what is no time."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return 0.0
