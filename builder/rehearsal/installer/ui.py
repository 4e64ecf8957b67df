# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The installer's console: messages, questions and waits of Anaconda's text and cmdline modes.

In text mode every fault ends at a prompt, and the machine stays up. In cmdline mode nothing is asked: the message is
printed, 180 seconds pass, and then the kickstart's own poweroff or reboot runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from . import clock, log
from .release.words import EL7, Words


class PaneDeadError(Exception):
    """The installer's process ends without any exit handling: tmux shows a dead pane and the machine stays up."""


class ExitError(Exception):
    """The installer ends with a fault, through its exit handler: the kickstart's poweroff or reboot runs."""


class CmdlineError(Exception):
    """A question would have to be asked, in a mode that has none."""


class Ui:
    """The console.

    Args:
        cmdline: nothing may be asked.
        patience: seconds that a fault stays on the screen in cmdline mode.
        words: what is said.
    """

    def __init__(self, *, cmdline: bool, patience: float, words: Words = EL7) -> None:
        self.cmdline = cmdline
        self.patience = patience
        self.words = words

    def say(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)  # noqa: T201 - the console is this program's screen

    def ask(self, prompt: str) -> str:
        """Print a prompt and wait for a line. This is where an unattended install hangs."""
        print(prompt, end="", flush=True)  # noqa: T201
        while True:
            try:
                return input()
            except EOFError:
                clock.pause(3600)

    def fatal(self, message: str, *, asks: bool = False) -> NoReturn:
        """A fault that aborts the installation, shown in a window.

        Args:
            asks: in cmdline mode, too.
        """
        log.error("anaconda", message)
        if self.cmdline and not asks:
            raise CmdlineError(message)
        self.say()
        self.say(message)
        self.ask(self.words.acknowledge)
        raise ExitError(message)

    def agree(self, question: str, missing: str) -> None:
        """Ask whether to go on; `no` ends the installation.

        Raises:
            CmdlineError: in cmdline mode, with `missing`.
            ExitError: the answer was no.
        """
        if self.cmdline:
            raise CmdlineError(missing)
        self.say()
        self.say(question)
        while True:
            answer = self.ask("Please respond 'yes' or 'no': ").strip().lower()
            if answer in ("yes", "y"):
                return
            if answer in ("no", "n"):
                raise ExitError(missing)

    def cmdline_end(self, error: CmdlineError, then: Callable[[], None]) -> NoReturn:
        """Say the last words of cmdline mode; `then` is done before anybody waits."""
        log.error("anaconda", f"CmdlineError: {error}")
        self.say(self.words.stopped.format(error))
        then()
        clock.pause(self.patience)
        raise ExitError(str(error))

    def no_debugging(self, said: str) -> None:
        """Report an error as cmdline mode does that is none of its own: only that nobody can be asked."""
        self.say()
        self.say("Running in cmdline mode, no interactive debugging allowed.")
        self.say(f"The exact error message is: \n\n{said}.\n\nThe installer will now terminate.")
        clock.pause(self.patience)

    def script_end(self, lineno: int) -> NoReturn:
        """Report a failed script as cmdline mode does: the exit status that the installer would leave with."""
        log.error("anaconda", f"Error running the kickstart script at line {lineno}")
        self.no_debugging("0")
        raise ExitError(f"kickstart script at line {lineno}")
