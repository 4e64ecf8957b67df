"""Output for people: progress on standard error, text for results."""

from builder.console.choose import watcher
from builder.console.text import (
    clean,
    colourful,
    error_lines,
    left_text,
    size_text,
    table,
    time_text,
    times_lines,
)
from builder.console.watch import JsonLines, Lines, Recorded, Spent, Watcher, plan_rows, times

__all__ = [
    "JsonLines",
    "Lines",
    "Recorded",
    "Spent",
    "Watcher",
    "clean",
    "colourful",
    "error_lines",
    "left_text",
    "plan_rows",
    "size_text",
    "table",
    "time_text",
    "times",
    "times_lines",
    "watcher",
]
