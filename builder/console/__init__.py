"""The one rule: progress goes to standard error; standard output holds the result alone."""

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
from builder.console.watch import JsonLines, Lines, Recorded, Spent, Terminal, Watcher, plan_rows, times, watcher

__all__ = [
    "JsonLines",
    "Lines",
    "Recorded",
    "Spent",
    "Terminal",
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
