"""Homes whose paths make the sockets of a user's libvirt too long, and the forms of libvirt's addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.vm import daemon
from builder.vm.uri import LONGEST, kind_of, long_paths, names_socket, session_directory
from tests.command import Ran

SESSION = "qemu:///session"


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path that other users may pass."""
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def home(short: Path, length: int) -> Path:
    """A home whose path has so many bytes."""
    folder = short / ("h" * (length - len(str(short)) - 1))
    assert len(str(folder)) == length
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    return folder


def as_nobody(home: Path, *words: str, **more: str) -> Ran:
    """Run builder as an ordinary user with this home."""
    if os.geteuid() != 0:
        pytest.skip("root only")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "builder", *words],
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2]), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(done.args, done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("length", [40, 79, 80, 120])
def test_a_home_that_is_too_long_is_found_at_once(short: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home(short, length)))
    with pytest.raises(HostError, match="too long") as failed:
        daemon.ensure(SESSION)
    assert all(word in failed.value.hint for word in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "export"))
    assert [long.variable for long in long_paths(SESSION)][-1] == "XDG_CONFIG_HOME"
    # The way that the hint shows.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(short))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert long_paths(SESSION) == []


def test_a_short_home_is_accepted_and_the_host_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/firstname.lastname-of-the.long")
    assert long_paths(SESSION) == []
    monkeypatch.setenv("HOME", "/h" * 100)
    assert long_paths("qemu:///system") == long_paths("qemu:///session?socket=/tmp/s") == []


def test_umlauts_count_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/" + "ü" * 16)
    assert long_paths(SESSION) != []


def test_the_check_and_the_commands_say_so(short: Path) -> None:
    folder = home(short, 53)
    rows = {row["name"]: row for row in as_nobody(folder, "host", "check", "--json").document()["rows"]}
    assert (rows["socket paths"]["state"], "XDG_CONFIG_HOME" in rows["socket paths"]["fix"]) == ("fail", True)
    run = as_nobody(folder, "run", "centos7-minimal", "--media", "rehearsal")
    assert (run.returncode, "too long" in run.stderr, "XDG_CONFIG_HOME" in run.stderr) == (3, True, True)
    # Before anything is started.
    assert "kickstart" not in run.stderr.partition("error:")[0]


def test_libvirt_itself_agrees(short: Path) -> None:
    """With the longest paths that are accepted libvirt's daemon comes up, and with one byte more it does not."""
    if os.geteuid() != 0 or not shutil.which("libvirtd"):
        pytest.skip("needs root and libvirtd")
    for more, up in ((0, True), (1, False)):
        length = LONGEST - len("/libvirt/virtlogd-admin-sock") + more
        folder = home(short, length)
        words = ["virtlogd", "--timeout", "1"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(short), "XDG_RUNTIME_DIR": str(folder)}
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words],
            env={**environment, "XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ("too long" in done.stderr) != up, done.stderr


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("qemu:///system", "system"),
        ("qemu+unix:///system", "system"),
        ("qemu+unix:///system?socket=/run/other", "system"),
        ("qemu:///session", "session"),
        ("qemu+unix:///session", "session"),
        ("qemu://elsewhere/system", None),
        ("qemu+ssh://root@elsewhere/system", None),
        ("qemu:///embed?root=/tmp", None),
        ("test:///default", None),
    ],
)
def test_which_libvirt_an_address_leads_to(uri: str, kind: str | None) -> None:
    assert kind_of(uri) == kind
    assert names_socket(uri) == ("?" in uri)
    if kind == "system":
        from builder.vm.uri import machine_log

        assert machine_log(uri, "web") == Path("/var/log/libvirt/qemu/web.log")
    assert session_directory().name == "libvirt"
