"""Repositories of recipes whose links and names lead elsewhere: nothing from outside gets into images or to a farm."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.host.network import guardian, rollback
from builder.kickstart import render
from builder.nightly import notify, worker
from builder.nightly.farm.worker import collect_files, unpack_files
from builder.recipe import provision_files

SECRET = "root:$6$secret\n"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder like /etc, beside a repository."""
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("shadow", "evil.ks.j2", "run.sh"):
        (folder / name).write_text(SECRET)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A cloned repository that is reached through a link, as may be."""
    real, shown = tmp_path / "real", tmp_path / "repository"
    for name in ("pipelines", "kickstarts", "provision"):
        (real / name).mkdir(parents=True)
        (real / name / "good").write_text("good\n")
    shown.symlink_to(real)
    return shown


def whole(folder: Path, outside: Path) -> None:
    (folder / "good").unlink()
    folder.rmdir()
    folder.symlink_to(outside)


def two_links(folder: Path, outside: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to(outside)


# What leads out, and the name that a recipe gives.
WAYS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "the file": (lambda folder, outside: (folder / "x").symlink_to(outside / "shadow"), "x"),
    "a folder on the way": (lambda folder, outside: (folder / "conf").symlink_to(outside), "conf/shadow"),
    "a folder as source": (lambda folder, outside: (folder / "conf").symlink_to(outside), "conf"),
    "a link to a link": (two_links, "a/shadow"),
    "up and down": (lambda folder, _: (folder / "up").symlink_to("../.."), "up/etc/shadow"),
    "the whole folder": (whole, "shadow"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_source_leads_out(repository: Path, outside: Path, tmp_path: Path, way: str) -> None:
    make, name = WAYS[way]
    make(repository / "provision", outside)
    for call in (
        lambda: provision_files.collect([name], [repository / "provision"]),
        lambda: provision_files.take(name, "0" * 64, [repository / "provision"], tmp_path / "taken"),
    ):
        with pytest.raises(RecipeError, match="leads out of"):
            call()
    assert not (tmp_path / "taken").exists()


def test_a_link_that_stays_inside_is_a_file_like_others(repository: Path, tmp_path: Path) -> None:
    folder = repository / "provision"
    (folder / "alias").symlink_to("good")
    found = provision_files.collect(["good", "alias"], [folder])
    assert found["good"] == found["alias"]
    taken = provision_files.take("alias", found["alias"], [folder], tmp_path / "taken")
    assert (taken.read_text(), taken.is_symlink()) == ("good\n", False)


@pytest.mark.parametrize("way", WAYS)
def test_a_template_leads_out(repository: Path, outside: Path, way: str) -> None:
    make, name = WAYS[way]
    make(repository / "kickstarts", outside)
    with pytest.raises(RecipeError, match="no kickstart template"):
        render.collect(name, [repository / "kickstarts"])


@pytest.mark.parametrize("name", ["../secret.ks.j2", "{outside}/shadow", "conf/shadow", "good/../../../etc/shadow"])
def test_an_include_leads_out(repository: Path, outside: Path, name: str) -> None:
    folder = repository / "kickstarts"
    (folder / "conf").symlink_to(outside)
    (repository / "secret.ks.j2").write_text(SECRET)
    (folder / "x.ks.j2").write_text(f"text\n{{% include '{name.format(outside=outside)}' %}}\n")
    with pytest.raises(RecipeError, match="no kickstart template"):
        render.collect("x.ks.j2", [folder])


@pytest.mark.parametrize("kind", ["pipelines", "kickstarts", "provision"])
@pytest.mark.parametrize("way", ["the file", "a folder on the way", "the whole folder"])
def test_nothing_from_outside_travels_to_a_farm(repository: Path, outside: Path, kind: str, way: str) -> None:
    WAYS[way][0](repository / kind, outside)
    with pytest.raises(RecipeError, match="cannot be sent to a farm"):
        collect_files(repository, [])


def test_what_is_inside_travels(repository: Path) -> None:
    (repository / "provision" / "alias").symlink_to("good")
    sent = collect_files(repository, [])
    assert sent == dict.fromkeys(("kickstarts/good", "pipelines/good", "provision/alias", "provision/good"), b"good\n")


def test_of_keys_only_public_halves_travel(repository: Path, outside: Path, tmp_path: Path) -> None:
    keys, home = repository / "keys", tmp_path / "gnupg"
    keys.mkdir()
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]

    def export(*words: str) -> bytes:
        return subprocess.run([*gpg, *words], check=True, capture_output=True).stdout

    try:
        export("--quick-generate-key", "somebody", "ed25519", "sign", "never")
        public, private = export("--armor", "--export"), export("--armor", "--export-secret-keys")
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    (keys / "public").write_bytes(public)
    (keys / "binary").write_bytes(export("--export"))
    (keys / "private").write_bytes(private)
    (keys / "both").write_bytes(b"password: hunter2\n" + public + b"\npassword: hunter2\n" + private)
    (keys / "id_ed25519").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n")
    (keys / "password").write_text("hunter2\n")
    sent = {name: data for name, data in collect_files(repository, []).items() if name.startswith("keys/")}
    assert (
        {"keys/public", "keys/binary", "keys/both"}
        <= sent.keys()
        <= {*(f"keys/{name}" for name in ("public", "binary", "both", "private"))}
    )
    for data in sent.values():
        assert data.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
        assert b"PRIVATE" not in data
        assert b"hunter2" not in data
    (keys / "shadow").symlink_to(outside / "shadow")
    with pytest.raises(RecipeError, match="cannot be sent to a farm"):
        collect_files(repository, [])


@pytest.mark.parametrize(
    "program",
    [guardian.PROGRAM, rollback.PROGRAM, notify.PROGRAM, worker.BUILDER, render.PROGRAM],
    ids=lambda words: words[-1],
)
def test_no_folder_is_taken_for_this_program(tmp_path: Path, program: tuple[str, ...]) -> None:
    """The guardian runs in /, where /builder may be a folder with anything."""
    for folder in ("builder", "builder/kickstart", "builder/host/network", "builder/nightly"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("builder/__init__.py", "json.py"):
        (tmp_path / name).write_text("import os\nos.write(1, b'TAKEN')\nos._exit(0)\n")
    done = subprocess.run(program, cwd=tmp_path, input="", capture_output=True, text=True, timeout=60, check=False)
    assert "TAKEN" not in done.stdout


@pytest.mark.parametrize("name", ["../escaped", "/{tmp_path}/escaped", "pipelines/../../escaped"])
def test_a_worker_writes_nothing_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    name = name.format(tmp_path=tmp_path)
    with pytest.raises(RecipeError, match="leads out"), unpack_files(tmp_path / "farm", {"good": b"", name: b"x"}):
        pass
    assert not list(tmp_path.rglob("escaped"))
    with unpack_files(tmp_path / "farm", {"pipelines/a.yaml": b"x"}) as folder:
        assert (folder / "pipelines" / "a.yaml").read_bytes() == b"x"
