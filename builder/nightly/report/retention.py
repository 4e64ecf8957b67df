"""The one rule: of older nights the last one of each day, week and month stays, of as many as are asked for.

The latest few stay in any case: who mends a fault in the morning and runs again still wants to read what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from builder.nightly.record import Night, nights
from builder.store.objects import remove


@dataclass(frozen=True)
class Policy:
    """How many of the latest reports stay, and how many days, weeks and months keep one; the newest always stays."""

    latest: int = 7
    daily: int = 14
    weekly: int = 8
    monthly: int = 12


def kept(found: Sequence[Night], policy: Policy) -> set[str]:
    """Names of the nights that stay."""
    newest = sorted(found, key=lambda night: (night.started, night.date), reverse=True)
    stay = {night.date for night in newest[: max(1, policy.latest)]}
    for count, period in ((policy.daily, _day), (policy.weekly, _week), (policy.monthly, _month)):
        seen: set[object] = set()
        for night in newest:
            span = period(datetime.fromisoformat(night.started).date())
            if span not in seen and len(seen) < count:
                seen.add(span)
                stay.add(night.date)
    return stay


def prune(reports: Path, policy: Policy) -> list[str]:
    """Remove the reports of all other nights; the names of those that went."""
    found = nights(reports)
    stay = kept(found, policy)
    gone = [night.date for night in found if night.date not in stay]
    for name in gone:
        remove(reports / name)
    return gone


def _day(day: date) -> object:
    return day


def _week(day: date) -> object:
    return day.isocalendar()[:2]


def _month(day: date) -> object:
    return day.year, day.month
