"""Run programs; nothing else starts any.

Invariant: a program does not outlive its caller, unless `run_through` or `start_daemon` started it. It has its own
process group and a clean environment (C locale). When the caller is interrupted or the time limit passes, the whole
group is ended and reaped before the exception goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from builder.errors import BuilderError, HostError
from builder.system import packages


@dataclass(frozen=True)
class Finished:
    """Result of a program: its exit status and both outputs, decoded with errors replaced."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def error_text(self) -> str:
        """The end of the output, for an error message: at most 20 lines of stderr, else of stdout."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-20:])


def find(program: str) -> str:
    """The program's path on PATH or in the system directories an ordinary user's PATH leaves out.

    Raises:
        HostError: it is not installed; the hint names the package.
    """
    found = packages.find_program(program)
    if found is None:
        raise HostError(f"{program} is not installed", hint=packages.hint(program))
    return found


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    error: type[BuilderError] = HostError,
    on_output: Callable[[str], None] | None = None,
) -> Finished:
    """Run one program to its end and return what it said.

    Args:
        argv: program and arguments; never a secret, since every user of the host can read them.
        stdin: given to the program; secrets go this way. Without it the program reads end-of-file.
        timeout: seconds until the whole process group is killed.
        env: added to the environment.
        check: raise when the exit status is not 0.
        error: the class raised for a bad exit status or a time-out.
        on_output: called with what the program writes on standard output as it comes; then nothing is given to the
            program, and there is no time limit.

    Raises:
        HostError: the program is not installed.
        BuilderError: of class `error`, for a bad exit status or a time-out.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", **(env or {})}
    data = stdin.encode() if isinstance(stdin, str) else stdin
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            if on_output is not None:
                _listen(child, on_output)
            out, err = child.communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            _end_group(child)
            raise error(f"{words[0]} did not end within {timeout:g} s", details=" ".join(words)) from None
        except BaseException:
            _end_group(child)
            raise
    done = Finished(tuple(words), child.returncode, _text(out), _text(err))
    if check and done.status != 0:
        how = f"exit status {done.status}" if done.status > 0 else signal.Signals(-done.status).name
        raise error(
            f"{Path(words[0]).name} failed ({how})",
            f"{' '.join(words)}\n{done.error_text}".strip(),
            output=done.error_text,
        )
    return done


def run_through(argv: Sequence[str | Path], stdin: str) -> None:
    """Run a program that nothing stops half-way: it comes to its end also when its caller is interrupted or dies.

    For the one thing that must not stay half done: giving a host its network back.

    Raises:
        HostError: it failed; the details are its output.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]

    def to_its_end() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            words,
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            check=False,
        )

    # Signals arrive in the main thread only: there an interrupt can strike while the child is being started, and then
    # nothing would wait for it. Leaving the pool waits, whatever the main thread was interrupted in.
    with ThreadPoolExecutor(1, thread_name_prefix="run-through") as pool:
        done = pool.submit(to_its_end).result()
    if done.returncode != 0:
        output = _text(done.stdout).strip()
        raise HostError(output or f"{words[0]} failed", " ".join(words), output=output)


def hand_over(argv: Sequence[str | Path]) -> NoReturn:
    """Replace builder by a program, which has the terminal, the environment and the exit status from now on.

    Raises:
        HostError: it is not installed.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]
    os.execv(words[0], words)


def start_daemon(argv: Sequence[str | Path]) -> int:
    """Start a program detached, in a session of its own with no terminal, and return its process id.

    For the one thing that has to outlive its caller: a libvirt daemon that leaves by itself when unused. It also finds
    the programs of administrators: cron and `su` give root a PATH without them, and libvirt 11.3 ends at its start
    where it finds neither nft nor iptables for its networks.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]
    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"},
        start_new_session=True,
    )
    # The daemon is meant to outlive this object: keep Python from warning that it still runs.
    child.returncode = 0
    return child.pid


def _listen(child: subprocess.Popen[bytes], on_output: Callable[[str], None]) -> None:
    """Hand on what comes until its end. Such programs write a line or two on standard error: no pipe fills up."""
    stream = child.stdout
    while stream is not None and (piece := os.read(stream.fileno(), 4096)):
        on_output(_text(piece))


class Children:
    """Programs under way, each watched by a thread of its own; all of them can be ended, from any thread.

    They get SIGTERM from the kernel, too, when the thread that started them is gone without a word.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._ending = False

    def run(
        self, argv: Sequence[str | Path], hear: Callable[[str], None], env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run one program to its end.

        Args:
            argv: program and arguments; never a secret.
            hear: called with each line of standard error, as it comes.
            env: added to the environment.

        Returns:
            What it left; `stderr` holds its last lines only. The status is -15 if it was ended before it began.
        """
        words = [find("setpriv"), "--pdeathsig", "TERM", "--", find(str(argv[0])), *map(str, argv[1:])]
        last: deque[str] = deque(maxlen=200)
        with tempfile.TemporaryFile() as out:
            with self._lock:
                if self._ending:
                    return Finished(tuple(words), -signal.SIGTERM, "", "")
                child = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
                self._alive.add(child)
            try:
                assert child.stderr is not None
                with child.stderr as said:
                    for line in said:
                        text = _text(line).rstrip("\n")
                        last.append(text)
                        hear(text)
                child.wait()
            except BaseException:
                _end_group(child)
                raise
            finally:
                with self._lock:
                    self._alive.discard(child)
            out.seek(0)
            return Finished(tuple(words), child.returncode, _text(out.read()), "\n".join(last))

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send all of them a signal, to the whole process group each; none is started any more."""
        with self._lock:
            self._ending = True
            for child in self._alive:
                # Only the thread that waits for a child reaps it, and takes it out of the set under the lock.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, how)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
