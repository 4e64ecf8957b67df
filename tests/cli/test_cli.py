"""The command line in a directory of its own: in this process, and as a program where the test is about that."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from builder import errors, images
from builder.cli import main
from builder.cli.options import Json
from builder.cli.state import State
from builder.errors import InstallError
from builder.store import runs
from builder.store.store import Store

pytestmark = pytest.mark.unit

# A command that waits for a signal, added to the real application.
WAITING = """
import sys
from signal import pause
from builder.cli import main

@main.app.command()
def wait() -> None:
    sys.stderr.write("waiting\\n")
    sys.stderr.flush()
    while True:
        pause()

sys.exit(main.main())
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def fail(name: str, as_json: Json = False) -> None:
    """End with an error of builder's."""
    raise getattr(errors, name)("it failed", "where\nand why", "do this")


def crash(as_json: Json = False) -> None:
    """End with an error that is a bug."""
    raise LookupError("nobody foresaw this")


def disk(name: str, as_json: Json = False) -> None:
    """End with an error of the operating system."""
    raise OSError(getattr(errno, name), "not used", "/some/place")


@pytest.fixture
def odd(builder: Run) -> Iterator[Run]:
    """Run the application with commands that end as no command should."""
    there = len(main.app.registered_commands)
    for command in (fail, crash, disk):
        main.app.command()(command)
    yield builder
    del main.app.registered_commands[there:]


@pytest.mark.process
def test_help_as_a_program(builder_process: Run) -> None:
    done = builder_process("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.process
def test_the_start_needs_none_of_the_heavy_libraries() -> None:
    heavy = [
        "libvirt",
        "paramiko",
        "pycdlib",
        "jinja2",
        "cryptography",
        "ruamel",
        "rich",
        "pydantic._internal._model",
    ]
    code = f"import sys, builder.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_version(builder: Run) -> None:
    done = builder("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "builder")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "Missing argument"),
        (["run", "small", "--colour"], "No such option: --colour"),
        (["run", "small", "--accel", "hvf"], "hvf"),
        (["plan", "small", "--set", "machine.firmware"], "error: --set machine.firmware: no value"),
        (["run", "small", "--connect", "qemu+ssh://far/system"], "error: --connect qemu+ssh://far/system: builder"),
        (["run", "small", "--require-kvm", "--accel", "tcg"], "exclude each other"),
        (["plan", "smal"], "error: no pipeline named 'smal'\n  known: almalinux10-minimal, "),
        (["kickstart", "lint", "small.cfg", "--release", "el11"], "error: --release el11: no such release\n"),
        (["recipes", "new", "web", "--release", "el9"], "error: --release el9 needs the vendor's ISO\n"),
        (["recipes", "new", "web"], "error: recipes new takes one of --release, --like and --kickstart\n"),
        (["plan", "small", "--set", "machine.firmware=efi"], "  --set machine.firmware=efi: 'efi' is none of"),
        (["plan", "x" * 5000 + ".yaml"], "error: no recipe at xxx"),
        (
            ["kickstart", "lint", "none.cfg"],
            "error: there is no file none.cfg\n"
            "hint: for the kickstart of a pipeline: builder kickstart render none.cfg > ks.cfg\n",
        ),
        (["kickstart", "render", "small"], "error: no kickstart template small.ks.j2"),
    ],
)
def test_usage_errors_exit_2(builder: Run, pipelines: Path, words: list[str], said: str) -> None:
    done = builder(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_all_faults_of_a_recipe_are_shown(builder: Run, pipelines: Path, recipe_text: str) -> None:
    (pipelines / "small.yaml").write_text(recipe_text.replace("1GiB", "1GB").replace("bios", "efi"))
    done = builder("plan", "small")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: recipe small has 2 faults",
        "  pipelines/small.yaml:11: machine.memory: '1GB' is no size: write 2GiB, 512MiB or a number of bytes",
        "  pipelines/small.yaml:12: machine.firmware: 'efi' is none of 'bios', 'uefi'",
        "hint: `builder schema` lists all keys and their values",
    ]
    document = json.loads(builder("plan", "small", "--json").stdout)
    assert document["error"]["kind"] == "recipe"
    assert len(document["error"]["details"].splitlines()) == 2


def test_pipelines_are_found_here_then_in_the_users_folder(
    builder: Run, pipelines: Path, tmp_path: Path, recipe_text: str
) -> None:
    own = tmp_path / "home" / ".config" / "builder" / "pipelines"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(recipe_text.replace("name: small", "name: mine"))
    (own / "small.yaml").write_text("")
    found = {row["name"]: row for row in json.loads(builder("pipelines", "--json").stdout)}
    assert found["small"]["path"] == str(pipelines / "small.yaml")
    assert found["mine"]["path"] == str(own / "mine.yaml")
    assert found["centos7-minimal"]["fault"] is None
    assert {row["fault"] for row in found.values()} == {None}
    listed = [line.split() for line in builder("pipelines").stdout.splitlines()]
    assert ["small", "pipelines/small.yaml"] in listed


def test_the_schema_is_json(builder: Run) -> None:
    assert "machine" in json.loads(builder("schema").stdout)["properties"]


def test_a_kickstart_is_rendered_without_secrets(builder: Run) -> None:
    done = builder("kickstart", "render", "centos7-minimal", "--set", "kickstart.vars.timezone=Europe/Berlin")
    assert done.returncode == 0
    assert "timezone Europe/Berlin --utc" in done.stdout
    assert "rootpw --iscrypted ********" in done.stdout
    document = json.loads(builder("kickstart", "render", "centos7-minimal", "--json").stdout)
    assert document["template"] == "centos7-minimal.ks.j2"


def test_lint_shows_findings_and_exits_2_for_errors(builder: Run, tmp_path: Path) -> None:
    (tmp_path / "ks.cfg").write_text("text\ncdrom\nnonsense --now\n")
    done = builder("kickstart", "lint", "ks.cfg")
    assert done.returncode == 2
    assert "ks.cfg:3: error: " in done.stdout
    (finding,) = json.loads(builder("kickstart", "lint", "ks.cfg", "--json").stdout)
    assert (finding["line"], finding["severity"]) == (3, "error")
    (tmp_path / "ks.cfg").write_text("text\ncdrom\n")
    done = builder("kickstart", "lint", "ks.cfg")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def image(tmp_path: Path) -> images.Image:
    """One published image in `tmp_path/artifacts`."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"qcow2" * 1000)
    name = "an-image-with-a-long-name"
    return images.publish(tmp_path / "artifacts" / "images", name, {f"{name}.qcow2": disk}, {"stage": "x"})


def test_images_are_listed_and_shown(builder: Run, image: images.Image) -> None:
    lines = builder("images", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "LATEST", "SIZE", "CREATED", "(UTC)"]
    assert lines[1].split()[:5] == [image.name, image.version, "*", "4.9", "KiB"]
    assert max(map(len, lines)) <= 80
    (row,) = json.loads(builder("images", "list", "--json").stdout)
    assert (row["name"], row["latest"], row["sha256"]) == (image.name, True, image.sha256)
    shown = builder("images", "show", image.name).stdout
    assert f"sha256   {image.sha256}\n" in shown
    assert json.loads(builder("images", "show", image.name, "--json").stdout)["manifest"]["stage"] == "x"


def test_an_unknown_image_exits_7(builder: Run, image: images.Image) -> None:
    done = builder("images", "show", "an-image")
    assert done.returncode == 7
    assert done.stderr.startswith("error: there is no image an-image\n")


def test_runs_are_listed_and_shown(builder: Run, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "runs"
    store = Store(tmp_path / "artifacts" / ".store")
    store.prepare()
    error = InstallError("the installer asked a question", "on its console", "look at console.log")
    step = runs.StepRecord(stage="install", digest="ab" * 32, action="failed", reason="first run", seconds=61)
    words = ["builder", "run", "small"]
    with suppress(InstallError), runs.recording(store, folder, "20260102-030405-abcd", "small", words) as record:
        record.steps.append(step)
        (folder / record.id / "console.log").write_text("x" * 2048)
        raise error
    lines = builder("runs", "list").stdout.splitlines()
    assert lines[1].split(maxsplit=3) == [record.id, "failed", "small", "the installer asked a question"]
    assert max(map(len, lines)) <= 80
    shown = builder("runs", "show", "2026").stdout
    assert "command  builder run small\n" in shown
    assert "install  failed  1 m 01 s  first run\n" in shown
    assert "error: the installer asked a question\n  on its console\nhint: look at console.log\n" in shown
    assert f"2.0 KiB  artifacts/runs/{record.id}/console.log\n" in shown
    document = json.loads(builder("runs", "show", record.id, "--json").stdout)
    assert (document["outcome"], document["verdict"]["exit_code"]) == ("failed", 5)
    assert builder("runs", "show", "1999").returncode == 7


@pytest.mark.parametrize("words", ["images list", "runs list", "gc --dry-run", "gc"])
def test_looking_around_leaves_no_files(builder: Run, tmp_path: Path, words: str) -> None:
    done = builder(*words.split(), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) in ([], {"dry_run": "--dry-run" in words, "bytes": 0})
    assert not (tmp_path / "artifacts").exists()


def test_gc_removes_what_its_dry_run_says(builder: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "place" / ".store")
    store.prepare()
    thing = store.objects / ("ab" * 32)
    thing.mkdir()
    (thing / "data").write_bytes(b"x" * 65536)
    left = store.tmp / "20200101-000000-dead.install.1"
    left.mkdir()
    (left / "disk").write_bytes(b"x" * 65536)
    pulled = tmp_path / "place" / "images" / ".pulling" / ("cd" * 32)
    pulled.mkdir(parents=True)
    (pulled / "blob").write_bytes(b"x" * 65536)
    for path in (thing, left, pulled, pulled / "blob"):
        os.utime(path, (0, 0))
    announced = json.loads(builder("gc", "--dry-run", "--json", BUILDER_ARTIFACTS="place").stdout)
    assert announced["bytes"] >= 3 * 65536
    assert all(path.exists() for path in (thing, left, pulled))
    done = json.loads(builder("--artifacts", "place", "gc", "--json").stdout)
    assert done == {"dry_run": False, "bytes": announced["bytes"]}
    assert not any(path.exists() for path in (thing, left, pulled))


def test_each_kind_of_error_has_an_exit_code_of_its_own() -> None:
    kinds = errors.BuilderError.__subclasses__()
    assert sorted(kind.exit_code for kind in kinds) == [2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("name", "code"), [("BuilderError", 1), ("RecipeError", 2), ("KvmError", 9)])
def test_an_error_is_shown_and_becomes_the_exit_code(odd: Run, name: str, code: int) -> None:
    done = odd("fail", name)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr == "error: it failed\n  where\n  and why\nhint: do this\n"


def test_an_error_is_one_json_document(odd: Run) -> None:
    done = odd("fail", "MediumError", "--json")
    assert done.returncode == 4
    assert done.stderr == ""
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    assert error == {
        "kind": "medium",
        "exit_code": 4,
        "brief": "it failed",
        "details": "where\nand why",
        "hint": "do this",
        "cause": "",
        "line": "",
        "source": "",
        "role": "",
        "transient": False,
        "stage": None,
        "evidence": None,
    }


def test_a_crash_is_short_and_its_traceback_is_in_a_file(odd: Run, tmp_path: Path) -> None:
    done = odd("--artifacts", "place", "crash")
    assert done.returncode == 1
    brief, more = done.stderr.splitlines()
    start, end = "error: internal error: LookupError (this is a bug; the traceback is in ", ")"
    assert (brief.startswith(start), more) == (True, "  nobody foresaw this")
    file = tmp_path / brief.removeprefix(start).removesuffix(end)
    assert file.parent == tmp_path / "place"
    # Python 3.13 also shows the line of a program given on the command line.
    assert re.search(r"in crash\n(?: .*\n)?LookupError: nobody foresaw this\n\Z", file.read_text())
    again = json.loads(odd("--artifacts", "place", "crash", "--json").stdout)["error"]
    assert again["exit_code"] == 1
    # In the same second, and not elsewhere for that.
    assert "is in place/" in again["brief"]


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        ("EROFS", 3, "read-only"),
        ("ENOSPC", 3, "disk full"),
        ("EACCES", 3, ""),
        ("EIO", 3, "disk error"),
        ("EXDEV", 1, ""),
    ],
)
def test_a_disk_that_cannot_be_written_is_no_crash(odd: Run, name: str, code: int, cause: str, tmp_path: Path) -> None:
    done = odd("--artifacts", "place", "disk", name, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"], error["cause"]) == (code, code, cause)
    assert (tmp_path / "place").exists() is (code == 1)
    assert code == 1 or error["brief"].endswith(": /some/place")


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    words = [sys.executable, "-c", WAITING, "wait"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "waiting\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (130, "", f"interrupted by {number.name}\n")


@pytest.mark.process
@pytest.mark.parametrize("words", ["schema", "pipelines --json", "--help"])
def test_a_reader_that_leaves_early_is_no_fault(tmp_path: Path, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "builder", *words.split()]
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


@pytest.mark.process
def test_a_full_disk_under_the_result_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "builder", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 3
    assert done.stderr == "error: cannot write the result: No space left on device\n"


@pytest.mark.process
def test_a_working_directory_that_is_gone_is_no_crash(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = f'rmdir "$PWD" && exec {sys.executable} -m builder images list'
    done = subprocess.run(["sh", "-c", words], cwd=gone, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: the working directory cannot be used")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's machines run as another user")
def test_root_does_not_work_below_a_directory_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        monkeypatch.chdir(top)
        state = State()
        state.locate(None)
        assert state.artifacts == Path("/var/lib/builder")
        assert state.moved is not None
        assert state.moved.startswith(f"{top} lets no other user through")
        state = State()
        state.locate(Path("here"))
        assert (state.artifacts, state.moved) == (Path("here"), None)
        Path(top).chmod(0o711)
        state = State()
        state.locate(None)
        assert (state.artifacts, state.moved) == (Path("artifacts"), None)
        monkeypatch.chdir("/")
