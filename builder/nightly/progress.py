"""The one rule: what a night says on the way goes to standard error, a line at a time, with the name of its build."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from typing import Any, TextIO

from builder.console import clean, left_text, size_text, time_text
from builder.nightly.builds import Build
from builder.nightly.record import Result

# Seconds between two signs of life of one build.
BEAT_EVERY = 60.0


class Teller:
    """Tells people, or programs one JSON object a line. Its methods may be called from any thread."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._json = as_json
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._beats: dict[str, float] = {}

    def note(self, text: str) -> None:
        """A fact about the whole night."""
        self._say("", {"event": "note", "text": text}, text)

    def event(self, build: Build, event: dict[str, Any]) -> None:
        """Something that a build said."""
        name, now = build.name, time.monotonic()
        match event["event"]:
            case "planned":
                run = [row["stage"] for row in event["stages"] if row["action"] == "run"]
                text = f"run {event['run']}: {', '.join(run) or 'nothing changed'}"
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
        self._say(name, event, text)

    def done(self, result: Result) -> None:
        """What became of a build."""
        why = result.fault.brief if result.fault else result.why
        image = f", {size_text(result.image.size)}" if result.image else ""
        where = f" (kept on {result.host}: {result.kept})" if result.host else ""
        text = f"{result.verdict} in {time_text(result.seconds)}{image}: {why}{where}"
        self._say(result.name, {"event": "result", "verdict": result.verdict, "exit_code": result.exit_code}, text)

    def _say(self, name: str, event: dict[str, Any], text: str) -> None:
        since = time.monotonic() - self._began
        if self._json:
            line = json.dumps({"build": name, **event, "at": round(since, 3)}, ensure_ascii=False)
        elif not text:
            return
        else:
            whole = int(since)
            line = (
                f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02} {f'{name}: ' if name else ''}{clean(text)}"
            )
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()


def _left(event: dict[str, Any]) -> str:
    left = left_text(event.get("left"))
    return f" ({left})" if left else ""
