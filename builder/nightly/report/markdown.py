"""The report of a nightly run as Markdown, and the texts of messages about it.

Invariant: the first ten lines show whether anything has to be done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from builder.console import clean, size_text, time_text
from builder.nightly.record import GOOD, NightlyRun, Notification, Result

REHEARSAL_NOTE = (
    "Rehearsal: built from this host's packages, not from the vendor's medium. These images are not for use."
)
SIGNS = {"published": "✅", "unchanged": "💤", "failed": "❌", "corrupt": "❌", "interrupted": "⚠️", "skipped": "⏭️"}
# Kinds of differences besides packages (`builder.images.Difference`).
OTHERS = ("services", "users", "listening ports", "SUID files", "kernel arguments")
# How many changes of a difference, and failed builds of a message, are listed one by one.
MOST = 30
MOST_FAILED = 10
# Characters of one text in a message; chat servers refuse long ones.
LONGEST = 300


def headline(nightly: NightlyRun) -> str:
    """Return `3 builds: 2 published, 1 failed`."""
    count = len(nightly.results)
    return f"{count} build{'' if count == 1 else 's'}: {counts(nightly)}"


def counts(nightly: NightlyRun) -> str:
    """Return `2 published, 1 failed`."""
    return ", ".join(f"{number} {verdict}" for verdict, number in nightly.verdicts().items())


def title(nightly: NightlyRun) -> str:
    """Return `Nightly run of 2026-11-23`, and whether it was a rehearsal."""
    return f"Nightly run of {nightly.date}{' (rehearsal)' if nightly.rehearsal else ''}"


def render(nightly: NightlyRun) -> str:
    """Return the report as GitHub-flavoured Markdown, for the summary of a CI job."""
    lines = [f"# {title(nightly)}: {headline(nightly)}", ""]
    lines += [f"**{REHEARSAL_NOTE}**", ""] if nightly.rehearsal else []
    lines += ["| image | verdict | why | took | size | boot |", "|---|---|---|--:|--:|--:|"]
    lines += [f"| {' | '.join(_row(result))} |" for result in nightly.results]
    for result in nightly.results:
        if result.fault is not None:
            lines += _failure(result)
        elif result.difference is not None:
            lines += _difference(result)
    took = time_text(nightly.seconds)
    lines += ["", f"{nightly.host}, {took}, {nightly.jobs} at a time; builder {nightly.builder}"]
    lines += ["", *(f"- {_text(delivery(sent))}" for sent in nightly.notifications)] if nightly.notifications else []
    return "\n".join(lines) + "\n"


def delivery(sent: Notification) -> str:
    """Return in one line whether a message was delivered."""
    return f"message to {sent.to}: {'delivered' if sent.delivered else f'not delivered: {sent.why}'}"


def summary(nightly: NightlyRun, recovered: Sequence[str], where: str) -> str:
    """Return a message about a run: each failed build with its cause, the others by name, and where the report is.

    Args:
        recovered: names of the images that are good again.
        where: address or path of the report, as Markdown.
    """
    lines = [f"**{title(nightly)}: {headline(nightly)}**", ""]
    lines += [REHEARSAL_NOTE, ""] if nightly.rehearsal else []
    bad = [result for result in nightly.results if not result.good]
    for result in bad[:MOST_FAILED]:
        lines += _bad_build(result)
    lines += [f"- … and {len(bad) - MOST_FAILED} more"] if len(bad) > MOST_FAILED else []
    for verdict in GOOD:
        names = [_text(result.name) for result in nightly.results if result.verdict == verdict]
        lines += [f"- {SIGNS[verdict]} {verdict}: {', '.join(names)}"] if names else []
    lines += ["", f"Good again: {', '.join(map(_text, recovered))}"] if recovered else []
    return "\n".join([*lines, "", f"Report: {where}"]) + "\n"


def abort(brief: str, hint: str) -> str:
    """Return a message about a run that ended without a report."""
    return "\n\n".join([f"❌ {_short(brief)}", *([f"Hint: {_short(hint)}"] if hint else [])]) + "\n"


def changes(difference: dict[str, Any]) -> list[str]:
    """Return one change a line: packages first (`+` added, `-` removed, `→` updated), then the other differences."""
    packages = difference.get("packages", {})
    lines = [f"+ {name}" for name in packages.get("added", ())]
    lines += [f"- {name}" for name in packages.get("removed", ())]
    lines += [f"{update['name']} {update['old']} → {update['new']}" for update in packages.get("updated", ())]
    for kind in OTHERS:
        items = difference.get(kind, {})
        lines += [f"{kind}: + {name}" for name in items.get("added", ())]
        lines += [f"{kind}: - {name}" for name in items.get("removed", ())]
    lines += [f"{name}: {both['old']} → {both['new']}" for name, both in difference.get("values", {}).items()]
    return lines


def changed(difference: dict[str, Any]) -> str:
    """Return `3 packages changed since ba9876543210`."""
    old = difference["old"]["version"]
    if "packages" in difference.get("unknown", {}):
        return f"the packages of {old} are not known"
    count = sum(len(items) for items in difference.get("packages", {}).values())
    return f"{count or 'no'} package{'' if count == 1 else 's'} changed since {old}"


def _row(result: Result) -> list[str]:
    image = result.image
    why = result.fault.brief if result.fault else result.why
    return [
        f"`{result.name}`",
        f"{SIGNS[result.verdict]} {result.verdict}",
        _text(why),
        time_text(result.seconds),
        size_text(image.size) if image else "",
        time_text(image.boot) if image and image.boot is not None else "",
    ]


def _bad_build(result: Result) -> list[str]:
    """Return a build that is not good as an item of a list."""
    head = f"- {SIGNS[result.verdict]} **{_text(result.name)}**: {result.verdict}"
    fault = result.fault
    if fault is None:
        return [f"{head}: {_short(result.why)}"]
    where = f" in {fault.stage}" if fault.stage else ""
    lines = [f"{head}{where}, exit {fault.exit_code}: {_short(fault.brief)}"]
    facts = {
        "cause": ": ".join(_short(text) for text in (fault.cause, fault.line) if text),
        "hint": _short(fault.hint),
        "evidence": f"`{result.folder}`" if result.folder else "",
    }
    return lines + [f"    - {name}: {text}" for name, text in facts.items() if text]


def _short(text: str) -> str:
    return _text(text if len(text) <= LONGEST else f"{text[:LONGEST]} …")


def _failure(result: Result) -> list[str]:
    fault = result.fault
    assert fault is not None
    where = f" in {fault.stage}" if fault.stage else ""
    lines = ["", f"## {SIGNS[result.verdict]} {result.name}: exit {fault.exit_code}{where}", "", _text(fault.brief)]
    if fault.details:
        lines += ["", *_fenced(fault.details)]
    if fault.hint:
        lines += ["", f"Hint: {_text(fault.hint)}"]
    if result.folder:
        lines += ["", f"Evidence: `{result.folder}`: {', '.join(f'`{name}`' for name in result.evidence)}"]
    if result.console:
        lines += ["", "<details><summary>Last lines of the console</summary>", "", *_fenced(result.console)]
        lines += ["", "</details>"]
    return lines


def _difference(result: Result) -> list[str]:
    assert result.difference is not None
    lines = changes(result.difference)
    head = f"{result.name}: {changed(result.difference)}"
    more = [f"… and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return ["", f"## {head}", "", *(_fenced("\n".join([*lines[:MOST], *more])) if lines else [])]


def _fenced(text: str) -> list[str]:
    """Return a block that its own text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *map(clean, text.expandtabs().splitlines()), fence]


def _text(text: str) -> str:
    """Return the text as one line in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", clean(" ".join(text.split())))
