"""The one rule: the page is one file that needs nothing from outside, and every text from a guest is only text."""

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
from builder.nightly.record import Night, Result
from builder.nightly.report import markdown
from builder.store.runs import README

TEMPLATE = Path(__file__).with_name("page.html.j2")
# Larger than any screenshot of a console; a page has to stay one that a phone can load.
LARGEST_PICTURE = 512 << 10
WIDTH, HEIGHT = 96, 24
# Stages that only prepare share a colour; a stage that is not listed has the last one.
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
    """A stage in the timeline; `left` and `width` in thousandths of the night."""

    left: float
    width: float
    colour: str
    title: str


def render(night: Night, earlier: Sequence[Night], folder: Path) -> str:
    """The report of a night as one HTML document.

    Args:
        earlier: nights before it, the oldest first, for the plots.
        folder: where the page will be, for links to the evidence.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size_text, "time": time_text, "plain": _plain}
    shown = [
        {
            "it": result,
            "bars": _bars(result, night),
            "sizes": _plot(result, earlier, _size, size_text),
            "boots": _plot(result, earlier, _boot, time_text),
            "changes": markdown.changes(result.difference) if result.difference else [],
            "changed": markdown.changed(result.difference) if result.difference else "",
            "picture": _picture(result),
            "links": _links(result, folder),
        }
        # What somebody has to look at comes first.
        for result in sorted(night.results, key=lambda result: result.good)
    ]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        night=night,
        rows=shown,
        title=markdown.title(night),
        note=markdown.REHEARSAL_NOTE if night.rehearsal else "",
        deliveries=list(map(markdown.delivery, night.notifications)),
        headline=markdown.headline(night),
        verdict=_verdict(night),
        ticks=_ticks(night.seconds),
        legend=LEGEND,
    )


def _verdict(night: Night) -> str:
    """Whether there is anything to do."""
    bad = [result.name for result in night.results if not result.good]
    if not bad:
        return "Nothing to do: every image is built and proved" if night.results else "There was nothing to build"
    return f"{len(bad)} of {len(night.results)} builds want a look"


def _ticks(seconds: float) -> list[tuple[float, str]]:
    """Marks of the timeline, in thousandths of the night: at most seven, at round times."""
    step = next((step for step in STEPS if seconds / step <= 7), STEPS[-1])
    times = range(0, int(seconds) + 1, step)
    return [(round(at / max(seconds, 0.001) * 1000, 1), _mark(at, step)) for at in times if at < seconds * 0.96]


def _mark(at: int, step: int) -> str:
    if step < 60:
        return f"{at} s"
    return f"{at // 60} m" if step < 3600 else f"{at // 3600} h"


def _plain(text: str) -> str:
    """Lines without characters that have no picture."""
    return "\n".join(map(clean, text.expandtabs().splitlines()))


def _bars(result: Result, night: Night) -> list[Bar]:
    whole = max(night.seconds, 0.001)
    bars = []
    for stage in result.stages:
        if stage.start is None:
            continue
        colour = "bad" if stage.failed else f"c{COLOURS.get(stage.stage, len(LEGEND) - 1)}"
        title = f"{stage.stage}: {'failed after ' if stage.failed else ''}{time_text(stage.seconds)}"
        # Thin, but never unseen.
        width = max(stage.seconds / whole * 1000, 3)
        bars.append(Bar(min(stage.start / whole * 1000, 997), width, colour, title))
    return bars


def _size(result: Result) -> float | None:
    return result.image.size if result.image else None


def _boot(result: Result) -> float | None:
    return result.image.boot if result.image else None


def _plot(
    result: Result, earlier: Sequence[Night], read: Callable[[Result], float | None], text: Callable[[int], str]
) -> Markup:
    """A line over the last nights, in a drawing as small as a word; empty when there are fewer than two points."""
    past = [one for night in earlier for one in night.results if one.name == result.name]
    values = [value for one in [*past, result] if (value := read(one)) is not None]
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    step, span = (WIDTH - 6) / (len(values) - 1), (high - low) or 1
    points = [
        (3 + index * step, HEIGHT / 2 if high == low else HEIGHT - 4 - (value - low) / span * (HEIGHT - 8))
        for index, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    title = f"{len(values)} nights: {text(int(low))} to {text(int(high))}"
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
        '<polyline points="{}"/><circle cx="{:.1f}" cy="{:.1f}" r="2.5"/></svg>'
    ).format(WIDTH, HEIGHT, title, title, line, *points[-1])


def _picture(result: Result) -> str:
    """The screenshot as a data: address; "" when there is none."""
    path = Path(result.folder) / result.picture
    if not result.picture or not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _links(result: Result, folder: Path) -> list[tuple[str, str]]:
    """Name and address of each file of the evidence; relative, so that a copied `artifacts` keeps them."""
    if not result.folder:
        return []
    base = os.path.relpath(result.folder, folder)
    # What to look at first is said in the one file that comes first.
    names = sorted(result.evidence, key=lambda name: (name != README, name))
    return [(name, quote(f"{base}/{name}")) for name in names]
