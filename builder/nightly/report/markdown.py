"""The one rule: a reader of the first ten lines knows whether anything has to be done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from builder.console import clean, size_text, time_text
from builder.nightly.record import GOOD, Night, Notification, Result

REHEARSAL_NOTE = (
    "A rehearsal: built from a host's packages, not from the vendor's medium; these images are not for use."
)
SIGNS = {"published": "✅", "no news": "💤", "failed": "❌", "rotten": "❌", "interrupted": "⚠️", "not built": "⏭️"}
# Kinds of differences beside packages (`builder.images.Difference`).
OTHERS = ("services", "users", "listening ports", "SUID files", "kernel arguments")
# Changes of a difference that are told one by one, and failed builds in a message.
MOST = 30
MOST_FAILED = 10
# Characters of one text in a message; chat servers refuse long ones.
LONGEST = 300


def headline(night: Night) -> str:
    """`3 builds: 2 published, 1 failed`."""
    count = len(night.results)
    return f"{count} build{'' if count == 1 else 's'}: {counts(night)}"


def counts(night: Night) -> str:
    """`2 published, 1 failed`."""
    return ", ".join(f"{number} {verdict}" for verdict, number in night.verdicts().items())


def title(night: Night) -> str:
    """`Night of 2026-11-23`, and whether it was a rehearsal."""
    return f"Night of {night.date}{' (rehearsal)' if night.rehearsal else ''}"


def render(night: Night) -> str:
    """The report as GitHub-flavoured Markdown, for the summary of a CI job."""
    lines = [f"# {title(night)}: {headline(night)}", ""]
    lines += [f"**{REHEARSAL_NOTE}**", ""] if night.rehearsal else []
    lines += ["| image | verdict | why | took | size | boot |", "|---|---|---|--:|--:|--:|"]
    lines += [f"| {' | '.join(_row(result))} |" for result in night.results]
    for result in night.results:
        if result.fault is not None:
            lines += _failure(result)
        elif result.difference is not None:
            lines += _difference(result)
    lines += ["", f"{night.host}, {time_text(night.seconds)}, {night.jobs} at a time; builder {night.builder}"]
    lines += ["", *(f"- {_text(delivery(sent))}" for sent in night.notifications)] if night.notifications else []
    return "\n".join(lines) + "\n"


def delivery(sent: Notification) -> str:
    """What became of a message, in one line."""
    return f"message to {sent.to}: {'delivered' if sent.delivered else f'not delivered: {sent.why}'}"


def summary(night: Night, recovered: Sequence[str], where: str) -> str:
    """A message about a night: each failed build with its cause, the others by name, and where the report is.

    Args:
        recovered: names of the images that are good again.
        where: address or path of the report, as Markdown.
    """
    lines = [f"**{title(night)}: {headline(night)}**", ""]
    lines += [REHEARSAL_NOTE, ""] if night.rehearsal else []
    bad = [result for result in night.results if not result.good]
    for result in bad[:MOST_FAILED]:
        lines += _bad_build(result)
    lines += [f"- … and {len(bad) - MOST_FAILED} more"] if len(bad) > MOST_FAILED else []
    for verdict in GOOD:
        names = [_text(result.name) for result in night.results if result.verdict == verdict]
        lines += [f"- {SIGNS[verdict]} {verdict}: {', '.join(names)}"] if names else []
    lines += ["", f"Good again: {', '.join(map(_text, recovered))}"] if recovered else []
    return "\n".join([*lines, "", f"Report: {where}"]) + "\n"


def abort(brief: str, hint: str) -> str:
    """A message about a night that ended without a report."""
    return "\n\n".join([f"❌ {_short(brief)}", *([f"Hint: {_short(hint)}"] if hint else [])]) + "\n"


def changes(difference: dict[str, Any]) -> list[str]:
    """A package a line: `+` came, `-` went, an arrow where the version changed; then what else is different."""
    packages = difference.get("packages", {})
    lines = [f"+ {name}" for name in packages.get("added", ())]
    lines += [f"- {name}" for name in packages.get("removed", ())]
    lines += [f"{one['name']} {one['old']} → {one['new']}" for one in packages.get("updated", ())]
    for kind in OTHERS:
        found = difference.get(kind, {})
        lines += [f"{kind}: + {name}" for name in found.get("added", ())]
        lines += [f"{kind}: - {name}" for name in found.get("removed", ())]
    lines += [f"{name}: {one['old']} → {one['new']}" for name, one in difference.get("values", {}).items()]
    return lines


def changed(difference: dict[str, Any]) -> str:
    """`3 packages changed since ba9876543210`."""
    old = difference["old"]["version"]
    if "packages" in difference.get("unknown", {}):
        return f"what packages {old} had is not known"
    count = sum(len(found) for found in difference.get("packages", {}).values())
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
    """A build that is not good, as an item of a list."""
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
        lines += ["", "<details><summary>The console's last lines</summary>", "", *_fenced(result.console)]
        lines += ["", "</details>"]
    return lines


def _difference(result: Result) -> list[str]:
    assert result.difference is not None
    found = changes(result.difference)
    head = f"{result.name}: {changed(result.difference)}"
    more = [f"… and {len(found) - MOST} more"] if len(found) > MOST else []
    return ["", f"## {head}", "", *(_fenced("\n".join([*found[:MOST], *more])) if found else [])]


def _fenced(text: str) -> list[str]:
    """A block that its own text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *map(clean, text.expandtabs().splitlines()), fence]


def _text(text: str) -> str:
    """One line in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", clean(" ".join(text.split())))
