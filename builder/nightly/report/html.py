"""The report of a nightly run as one HTML page.

Invariant: the page needs nothing from outside, and text from a guest is shown as text.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from builder.console import clean, size_text, time_text
from builder.nightly.record import NightlyRun, Result
from builder.nightly.report import markdown
from builder.store.runs import README

TEMPLATE = Path(__file__).with_name("page.html.j2")
# Larger than any screenshot of a console; a page has to stay one that a phone can load.
LARGEST_PICTURE = 512 << 10
WIDTH, HEIGHT = 96, 24
# Stages that only prepare share a colour; a stage that is not listed gets the last one.
COLOURS = {
    "fetch": 0,
    "kickstart": 0,
    "remaster": 0,
    "kernel": 0,
    "install": 1,
    "seal": 2,
    "verify": 3,
    "verify again": 3,
    "publish": 4,
    "push": 4,
}
# Seconds between two marks of the timeline.
STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800)
LEGEND = ("prepare", "install", "seal", "verify", "publish")


@dataclass(frozen=True)
class Bar:
    """A stage in the timeline; `left` and `width` in thousandths of the run."""

    left: float
    width: float
    colour: str
    title: str


def render(nightly: NightlyRun, earlier: Sequence[NightlyRun], folder: Path) -> str:
    """Return the report of a run as one HTML document.

    Args:
        earlier: runs before it, the oldest first, for the plots.
        folder: where the page will be, for links to the evidence.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size_text, "time": time_text, "plain": _plain}
    shown = [
        {
            "result": result,
            "bars": _bars(result, nightly),
            "sizes": _plot(result, earlier, _size, size_text),
            "boots": _plot(result, earlier, _boot, time_text),
            "changes": markdown.changes(result.difference) if result.difference else [],
            "changed": markdown.changed(result.difference) if result.difference else "",
            "picture": _picture(result),
            "links": _links(result, folder),
        }
        # Builds that need attention come first.
        for result in sorted(nightly.results, key=lambda result: result.good)
    ]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        run=nightly,
        rows=shown,
        title=markdown.title(nightly),
        note=markdown.REHEARSAL_NOTE if nightly.rehearsal else "",
        deliveries=list(map(markdown.delivery, nightly.notifications)),
        headline=markdown.headline(nightly),
        summary=_summary(nightly),
        ticks=_ticks(nightly.seconds),
        legend=LEGEND,
    )


def _summary(nightly: NightlyRun) -> str:
    """Return whether anything has to be done."""
    results = nightly.results
    bad = sum(not result.good for result in results)
    if not bad:
        return "Nothing to do: every image is built and verified" if results else "There was nothing to build"
    return f"{bad} of {len(results)} build{'s need' if len(results) > 1 else ' needs'} attention"


def _ticks(seconds: float) -> list[tuple[float, str]]:
    """Return the marks of the timeline, in thousandths of the run: at most seven, at round times."""
    step = next((step for step in STEPS if seconds / step <= 7), STEPS[-1])
    times = range(0, int(seconds) + 1, step)
    return [(round(at / max(seconds, 0.001) * 1000, 1), _mark(at, step)) for at in times if at < seconds * 0.96]


def _mark(at: int, step: int) -> str:
    if step < 60:
        return f"{at} s"
    return f"{at // 60} m" if step < 3600 else f"{at // 3600} h"


def _plain(text: str) -> str:
    """Return the lines without unprintable characters."""
    return "\n".join(map(clean, text.expandtabs().splitlines()))


def _bars(result: Result, nightly: NightlyRun) -> list[Bar]:
    whole = max(nightly.seconds, 0.001)
    bars = []
    for stage in result.stages:
        if stage.start is None:
            continue
        colour = "bad" if stage.failed else f"c{COLOURS.get(stage.stage, len(LEGEND) - 1)}"
        title = f"{stage.stage}: {'failed after ' if stage.failed else ''}{time_text(stage.seconds)}"
        # Thin, but never invisible.
        width = max(stage.seconds / whole * 1000, 3)
        bars.append(Bar(min(stage.start / whole * 1000, 997), width, colour, title))
    return bars


def _size(result: Result) -> float | None:
    return result.image.size if result.image else None


def _boot(result: Result) -> float | None:
    return result.image.boot if result.image else None


def _plot(
    result: Result, earlier: Sequence[NightlyRun], read: Callable[[Result], float | None], text: Callable[[int], str]
) -> Markup:
    """Draw a line over the last runs, as small as a word; empty when there are fewer than two points."""
    past = [other for run in earlier for other in run.results if other.name == result.name]
    values = [value for point in [*past, result] if (value := read(point)) is not None]
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    step, span = (WIDTH - 6) / (len(values) - 1), (high - low) or 1
    points = [
        (3 + index * step, HEIGHT / 2 if high == low else HEIGHT - 4 - (value - low) / span * (HEIGHT - 8))
        for index, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    title = f"{len(values)} runs: {text(int(low))} to {text(int(high))}"
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
        '<polyline points="{}"/><circle cx="{:.1f}" cy="{:.1f}" r="2.5"/></svg>'
    ).format(WIDTH, HEIGHT, title, title, line, *points[-1])


def _picture(result: Result) -> str:
    """Return the screenshot as a data: address; "" when there is none."""
    path = Path(result.folder) / result.picture
    if not result.picture or not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _links(result: Result, folder: Path) -> list[tuple[str, str]]:
    """Return name and address of each evidence file; relative, so that links work in a copy of `artifacts`."""
    if not result.folder:
        return []
    base = os.path.relpath(result.folder, folder)
    # README comes first: it says which file to look at first.
    names = sorted(result.evidence, key=lambda name: (name != README, name))
    return [(name, quote(f"{base}/{name}")) for name in names]
