"""Metrics of a nightly run in Prometheus' text format, for the text-file collector of the node exporter.

The format: prometheus/docs, "Exposition formats", "Text-based format" 0.0.4.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, and points in time as seconds since the
epoch, from which Prometheus computes ages.

Invariant: what is known of an image outlives a run that fails: it comes from the catalogue and from earlier runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

from builder import images
from builder.errors import RecipeError
from builder.images import Image
from builder.nightly.record import NightlyRun, Result, Verdict
from builder.system.atomic_file import replacing

# The collector reads no other files (node_exporter, README, "Textfile Collector").
SUFFIX = ".prom"


def check(path: Path) -> list[str]:
    """Check that a file for metrics can be written, before a run begins; returns warnings.

    Raises:
        RecipeError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise RecipeError(f"there is no folder {path.parent} for the metrics", hint=f"mkdir -p {path.parent}")
    return [] if path.suffix == SUFFIX else [f"{path}: the node exporter only reads files that end in {SUFFIX}"]


def write(path: Path, nightly: NightlyRun, earlier: Sequence[NightlyRun], catalogue: Path) -> None:
    """Write the metrics of a run, by one rename, so that the collector never reads half of them.

    Args:
        earlier: the runs before it.
        catalogue: the folder of the images.

    Raises:
        HostError: the file cannot be written.
    """
    # Readable for the exporter, which runs as a user of its own.
    with replacing(path) as file:
        file.write(render(nightly, earlier, catalogue))


def render(nightly: NightlyRun, earlier: Sequence[NightlyRun], catalogue: Path) -> bytes:
    """Return the metrics as text; arguments as for `write`."""
    gauges: list[_Gauge] = []

    def gauge(name: str, text: str, *labels: str) -> _Gauge:
        gauges.append(_Gauge(f"builder_{name}", text, labels))
        return gauges[-1]

    gauge("nightly_end_timestamp_seconds", "When the last nightly run ended").set(_seconds(nightly.ended))
    gauge("nightly_duration_seconds", "How long the last nightly run took").set(nightly.seconds)
    gauge("nightly_exit_code", "Exit code of the last nightly run; 0: every image is good").set(nightly.exit_code)
    success = gauge(
        "image_last_success_timestamp_seconds", "When the image was last built or verified; 0: never", "image"
    )
    created = gauge("image_created_timestamp_seconds", "When the image's latest version was published", "image")
    age = gauge("image_age_seconds", "Age of the image's latest version when the last run ended", "image")
    size = gauge("image_size_bytes", "Size of the disk of the image's latest version", "image")
    for name in dict.fromkeys(result.name for result in nightly.results):
        latest = next((image for image in images.list_images(catalogue, name) if image.latest), None)
        success.set(_last_success(name, [*earlier, nightly], latest), name)
        facts = _facts(name, [*earlier, nightly], latest)
        if facts is not None:
            created.set(facts[0], name)
            age.set(max(0.0, _seconds(nightly.ended) - facts[0]), name)
            size.set(facts[1], name)
    verdict = gauge("build_verdict", "1 for the verdict on the last build, 0 for the others", "image", "verdict")
    failure = gauge("build_failure_info", "Why the last build failed", "image", "stage", "kind", "cause")
    took = gauge("build_duration_seconds", "How long the last build took", "image")
    stages = gauge("stage_duration_seconds", "How long a stage that ran in the last build took", "image", "stage")
    for result in nightly.results:
        for word in get_args(Verdict):
            verdict.set(word == result.verdict, result.name, word)
        if result.fault is not None:
            failure.set(1, result.name, result.fault.stage or "", result.fault.kind, result.fault.cause)
        took.set(result.seconds, result.name)
        for stage in result.stages:
            if stage.start is not None:
                stages.set(stage.seconds, result.name, stage.stage)
    return "".join(one.text() for one in gauges).encode()


class _Gauge:
    """One metric with its samples; a later sample with the same labels takes the place of the earlier one."""

    def __init__(self, name: str, about: str, labels: tuple[str, ...]) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._samples: dict[tuple[str, ...], float] = {}

    def set(self, value: float, *labels: str | None) -> None:
        self._samples[tuple(map(str, labels))] = float(value)

    def text(self) -> str:
        lines = [f"# HELP {self._name} {self._about}", f"# TYPE {self._name} gauge"]
        for values, value in self._samples.items():
            pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in zip(self._labels, values, strict=True))
            lines.append(f"{self._name}{{{pairs}}} {value!r}" if pairs else f"{self._name} {value!r}")
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Return the value of a label as the format wants it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _last_success(name: str, runs: Sequence[NightlyRun], latest: Image | None) -> float:
    """Return when an image of this name was last published, or verified again; 0 for never."""
    times = [
        _seconds(nightly.started) + result.start + result.seconds
        for nightly, result in _results(name, runs)
        if result.good
    ]
    if latest is not None:
        times.append(latest.facts.created.timestamp())
        times += [_seconds(result.when) for result in images.verifications(latest.path) if result.good]
    return max(times, default=0.0)


def _facts(name: str, runs: Sequence[NightlyRun], latest: Image | None) -> tuple[float, int] | None:
    """Return when the latest version of an image was published, and its bytes; None when there is none.

    The images of a farm are in the catalogues of its workers: facts about them come with the results.
    """
    if latest is not None:
        return latest.facts.created.timestamp(), latest.size
    built = [result.image for _, result in _results(name, runs) if result.image is not None]
    return (_seconds(built[-1].created), built[-1].size) if built else None


def _results(name: str, runs: Sequence[NightlyRun]) -> Iterator[tuple[NightlyRun, Result]]:
    return ((run, result) for run in runs for result in run.results if result.name == name)


def _seconds(when: str) -> float:
    """Return seconds since the epoch; 0 for text that is not a time."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return 0.0
