"""Progress of a nightly run on standard error, one line at a time, each with the name of its build."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from builder.console import clean, left_text, size_text, time_text
from builder.nightly.builds import ImageBuild
from builder.nightly.record import Result

# Seconds between two signs of life of one build.
BEAT_EVERY = 60.0

# Called with each event of a build, from any thread.
OnEvent = Callable[[ImageBuild, dict[str, Any]], None]


class ProgressReporter:
    """Writes progress as text for people, or as one JSON object a line; its methods may be called from any thread."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._json = as_json
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._beats: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Report a fact about the whole run."""
        self._write("", {"event": "note", "text": text}, text)

    def on_event(self, build: ImageBuild, event: dict[str, Any]) -> None:
        """Report an event of a build."""
        name, now = build.name, time.monotonic()
        match event["event"]:
            case "planned":
                stages = [row["stage"] for row in event["stages"] if row["action"] == "run"]
                text = f"run {event['run']}: {', '.join(stages) or 'nothing changed'}"
            case "started":
                self._beats[name] = now
                text = f"{event['stage']} …{_left(event)}"
            case "ended":
                text = f"{event['stage']}: done in {time_text(event['seconds'])}"
            case "failed":
                text = f"{event['stage']}: failed after {time_text(event['seconds'])}"
            case "beat" if now - self._beats.get(name, now) >= BEAT_EVERY:
                self._beats[name] = now
                text = f"{event['stage']}: {event['text']}{_left(event)}"
            case _:
                text = ""
        self._write(name, event, text)

    def on_result(self, result: Result) -> None:
        """Report the result of a build."""
        why = result.fault.brief if result.fault else result.why
        image = f", {size_text(result.image.size)}" if result.image else ""
        where = f" (kept on {result.host}: {result.kept})" if result.host else ""
        text = f"{result.verdict} in {time_text(result.seconds)}{image}: {why}{where}"
        self._write(result.name, {"event": "result", "verdict": result.verdict, "exit_code": result.exit_code}, text)

    def _write(self, name: str, event: dict[str, Any], text: str) -> None:
        since = time.monotonic() - self._began
        if self._json:
            line = json.dumps({"build": name, **event, "at": round(since, 3)}, ensure_ascii=False)
        elif not text:
            return
        else:
            hours, minutes, seconds = int(since) // 3600, int(since) // 60 % 60, int(since) % 60
            line = f"{hours:02}:{minutes:02}:{seconds:02} {f'{name}: ' if name else ''}{clean(text)}"
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()


def _left(event: dict[str, Any]) -> str:
    left = left_text(event.get("left"))
    return f" ({left})" if left else ""
