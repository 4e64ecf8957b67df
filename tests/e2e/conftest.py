"""One golden image, built once by an ordinary user on qemu:///session, for all end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.system import retry

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Person:
    """Whoever runs builder: a name, a home directory, a folder to work in that QEMU's user can reach."""

    name: str
    uid: int
    home: Path
    folder: Path

    def command(self, *words: str) -> list[str]:
        """The words to run builder as this person."""
        builder = [sys.executable, "-m", "builder", *words]
        if self.uid == os.geteuid():
            return builder
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *builder]

    @property
    def environment(self) -> dict[str, str]:
        """A bare environment, as after a login."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "80",
        }

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start builder in a process group of its own; what it says goes to the log."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run builder to its end."""
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *words: str) -> Any:
        """The document that builder prints; the command must succeed."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return json.loads(done.stdout)

    def processes(self, word: str) -> list[int]:
        """Process ids of this person's programs with the word in their command line."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == self.uid and word.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found


@contextlib.contextmanager
def folder_for(uid: int) -> Iterator[Path]:
    """A working folder outside /tmp's private mode; /var/tmp is where large files belong."""
    folder = Path(tempfile.mkdtemp(prefix="builder-e2e-", dir="/var/tmp"))
    try:
        folder.chmod(0o711)
        os.chown(folder, uid, uid)
        for kind in ("pipelines", "kickstarts"):
            shutil.copytree(ROOT / kind, folder / kind)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def root_person() -> Iterator[Person]:
    """Root, who gets qemu:///system."""
    if os.geteuid() != 0:
        pytest.skip("not root: qemu:///system is not ours")
    with folder_for(0) as folder:
        yield Person("root", 0, Path("/root"), folder)


def reachable_by_others() -> bool:
    """An ordinary user can run builder from this checkout: no folder on the way to it is closed."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words = [*nobody, sys.executable, "-c", "import builder.pipeline.execute"]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, cwd="/", env=environment, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def person() -> Iterator[Person]:
    """An ordinary user, made for the test when root runs it; gone with all its processes afterwards.

    In a checkout that only root can enter, root builds the image, on qemu:///system.
    """
    if os.geteuid() != 0:
        with folder_for(os.getuid()) as folder:
            who = pwd.getpwuid(os.getuid())
            yield Person(who.pw_name, who.pw_uid, Path(who.pw_dir), folder)
        return
    if not reachable_by_others():
        with folder_for(0) as folder:
            yield Person("root", 0, Path("/root"), folder)
        return
    name = f"builder-{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--create-home", "--user-group", name], check=True)
    try:
        who = pwd.getpwnam(name)
        with folder_for(who.pw_uid) as folder:
            made = Person(name, who.pw_uid, Path(who.pw_dir), folder)
            try:
                yield made
            finally:
                end_all(made)
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)


def end_all(person: Person) -> None:
    """End what the throw-away user's session left running: libvirt's daemon stays two minutes after its last use."""
    for number in person.processes(""):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    retry.until(lambda: None if person.processes("") else True, within=20)


@pytest.fixture(scope="session")
def golden(person: Person, rehearsal_iso: Path) -> Any:
    """What `builder run` says of the image that it built on the rehearsal medium."""
    medium = person.folder / "medium.iso"
    shutil.copyfile(rehearsal_iso, medium)
    medium.chmod(0o444)
    return person.json("run", "centos7-minimal", "--media", str(medium))
