"""The watcher for people at a terminal: a line for each stage, redrawn in place."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from builder.console.text import clean, left_text, time_text
from builder.console.watch import Watcher
from builder.stage import Ledger, Plan, Step


@dataclass
class _Row:
    """One stage on the screen."""

    step: Step
    state: str
    seconds: float = 0.0
    began: float = 0.0


# Mark, mark where the terminal has no UTF-8, colour.
_MARKS = {
    "wait": ("·", ".", "dim"),
    "run": ("▸", ">", "bold cyan"),
    "done": ("✓", "+", "green"),
    "reuse": ("✓", "=", "dim green"),
    "not needed": ("-", "-", "dim"),
    "failed": ("✗", "x", "bold red"),
}


class Terminal(Watcher):
    """A line a stage, redrawn in place; notes scroll by above, and the last picture stays as the transcript."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.rows: dict[str, _Row] = {}
        self.last_beat = ""
        self.ascii = not (stream.encoding or "").lower().startswith("utf")
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self.live = Live(
            console=self.console,
            get_renderable=self._picture,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.last_beat = ""
        for row in self.rows.values():
            # The run ended well without it: what came before gave the same result as the last time.
            if kind is None and row.state == "wait":
                row.state, row.step = (
                    "reuse",
                    replace(row.step, action="reuse", reason="the same after all"),
                )
        with suppress(OSError, ValueError):
            self.live.stop()

    def planned(self, plan: Plan, run_id: str) -> None:
        super().planned(plan, run_id)
        self.rows = {
            step.stage.name: _Row(step, "wait" if step.action == "run" else step.action) for step in plan.steps
        }
        self.note(f"{plan.name}: run {run_id}")
        with suppress(OSError, ValueError):
            self.live.start(refresh=True)

    def started(self, step: Step) -> None:
        super().started(step)
        self.last_beat = ""
        row = self.rows[step.stage.name]
        row.state, row.began = "run", time.monotonic()

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        super().ended(step, seconds, ledger)
        self._settle(step, "done", seconds)

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        super().failed(step, seconds, error)
        self._settle(step, "failed", seconds)

    def note(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self.console.print(clean(text), soft_wrap=True)

    def beat(self, text: str) -> None:
        self.last_beat = clean(text).strip()
        # Work without stages (an export) shows its beats alone.
        if not self.rows and not self.live.is_started:
            with suppress(OSError, ValueError):
                self.live.start()

    def _settle(self, step: Step, state: str, seconds: float) -> None:
        self.last_beat = ""
        row = self.rows[step.stage.name]
        row.state, row.seconds = state, seconds

    def _picture(self) -> RenderableType:
        lines: list[Text] = []
        for row in list(self.rows.values()):
            lines.append(self._line(row))
            if row.state == "run" and self.last_beat:
                lines.append(_cut(f"{'':15}{self.last_beat}", "dim"))
        if not self.rows and self.last_beat:
            lines.append(_cut(self.last_beat, "dim"))
        return Group(*lines)

    def _line(self, row: _Row) -> Text:
        mark, plain, style = _MARKS[row.state]
        seconds = time.monotonic() - row.began if row.state == "run" else row.seconds
        took = time_text(seconds) if row.state in ("run", "done", "failed") else ""
        said = {
            "wait": row.step.reason,
            "run": ", ".join(filter(None, (row.step.stage.title, left_text(self.left())))),
            "done": row.step.stage.title,
            "failed": row.step.stage.title,
        }.get(row.state, f"{row.step.action}: {row.step.reason}")
        line = _cut(f" {plain if self.ascii else mark} ", style)
        line.append(f"{row.step.stage.name:<10}", "bold" if row.state == "run" else "")
        line.append(f"{took:>10}  ")
        line.append(clean(said), "dim" if row.state in ("wait", "reuse", "not needed") else "")
        return line


def _cut(text: str, style: str) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(text, style)
