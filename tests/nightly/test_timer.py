"""Ways to start a nightly run automatically: units for systemd, and templates for CI systems."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from builder.errors import RecipeError
from builder.nightly import ENVIRONMENT, timer
from tests.nightly.conftest import Place

CI = Path(__file__).parents[2] / "docs" / "ci"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_the_units_start_a_night_here(place: Place) -> None:
    place.recipe("alpha")
    words = ["nightly", "install-timer", "--to", "units", "--at", "Mon..Fri 02:30", "--", "alpha", "--jobs", "2"]
    done = place.run("--artifacts", str(place.artifacts), *words)
    assert done.returncode == 0, done.stderr
    service = configparser.RawConfigParser()
    service.optionxform = str  # type: ignore[assignment,method-assign]
    service.read(place.folder / "units" / timer.SERVICE)
    assert service["Service"]["WorkingDirectory"] == str(place.folder)
    command = shlex.split(service["Service"]["ExecStart"])
    assert command[-7:] == ["--artifacts", str(place.artifacts), "nightly", "run", "alpha", "--jobs", "2"]
    assert "OnCalendar=Mon..Fri 02:30" in (place.folder / "units" / timer.TIMER).read_text()
    assert f"enable --now {timer.TIMER}" in done.stdout


@needs_systemd
def test_units_hold_no_addresses(place: Place) -> None:
    """They stand in a file for the owner only, from which the nights read them."""
    place.recipe("alpha")
    secret = ["json://u:s3cret@127.0.0.1:9/", "jsons://a.example/T0ken"]
    options = [f"--notify={secret[0]}", "--notify", "/etc/addresses", "--notify", secret[1], "alpha"]
    place.run("nightly", "install-timer", "--to", "units", "--", *options)
    unit, file = place.folder / "units" / timer.SERVICE, place.folder / "units" / timer.ADDRESSES
    assert not any(part in unit.read_text() for part in ("s3cret", "T0ken"))
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    assert shlex.split(line)[-5:] == ["--notify", "/etc/addresses", "alpha", "--notify", str(file)]
    assert (file.read_text().split(), file.stat().st_mode & 0o777) == (secret, 0o600)

    # Those of the environment are carried over, too: systemd starts nights without it. Without any, none is left.
    environment = place.environment | {ENVIRONMENT: f"{' '.join(secret)} /etc/addresses"}
    words = place.command("nightly", "install-timer", "--to", "units")
    subprocess.run(words, cwd=place.folder, env=environment, capture_output=True, check=True)
    assert file.read_text().split() == secret
    assert '"--notify" "/etc/addresses" "--notify"' in unit.read_text()
    # Words copied from the unit name the file, which still holds the addresses.
    place.run("nightly", "install-timer", "--to", "units", "--", "--notify", str(file))
    assert file.read_text().split() == secret
    place.run("nightly", "install-timer", "--to", "units")
    assert not file.exists()
    assert "--notify" not in unit.read_text()


@needs_systemd
def test_a_time_that_is_none_is_refused_and_nothing_is_written(place: Place) -> None:
    done = place.run("nightly", "install-timer", "--to", "units", "--at", "half past nine")
    assert (done.returncode, (place.folder / "units").exists()) == (2, False)
    assert "Failed to parse calendar specification" in done.stderr


@needs_systemd
def test_words_reach_the_night_as_they_are(tmp_path: Path) -> None:
    """As systemd reads them back: a quote, a dollar, a percent sign and a blank are no syntax."""
    words = ["/bin/echo", 'a "b" $HOME %n', "c\\d"]
    texts = timer.units(words, tmp_path, "02:00")
    timer.write_units(texts, tmp_path / "units")
    (line,) = [line for line in texts[timer.SERVICE].splitlines() if line.startswith("ExecStart=")]
    assert line == 'ExecStart="/bin/echo" "a \\"b\\" $$HOME %%n" "c\\\\d"'


@pytest.mark.parametrize(
    ("file", "schema"), [("github-actions.yml", "github-workflows"), ("gitlab-ci.yml", "gitlab-ci")]
)
def test_templates_for_ci_are_what_their_schemas_want(file: str, schema: str) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    more = ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []
    words: list[str | Path] = [program, *more, "--builtin-schema", f"vendor.{schema}", CI / file]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Without one of these a night would build everything anew, or know nothing of the nights before it.
    text = (CI / file).read_text()
    cached = text[text.index("cache") : text.index("nightly --")]
    for name in ("media", ".store", "images", "reports"):
        assert f"artifacts/{name}" in cached


def test_templates_for_ci_cache_no_secret_and_pin_what_they_run() -> None:
    yaml = YAML(typ="safe", pure=True)
    jobs = [yaml.load(CI / name) for name in ("github-actions.yml", "gitlab-ci.yml")]
    steps = jobs[0]["jobs"]["images"]["steps"]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    (cache,) = (step["with"]["path"].split() for step in steps if step.get("uses", "").startswith("actions/cache@"))
    for paths in (cache, jobs[1]["images"]["cache"]["paths"]):
        # A folder is cached with all that is in it.
        assert all(not "artifacts/.store/secrets/".startswith(f"{path.rstrip('/')}/") for path in paths)


def install(place: Place, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Write the units to `units`, with these variables in the environment."""
    return subprocess.run(
        place.command("nightly", "install-timer", "--to", "units", *words),
        cwd=place.folder,
        env=place.environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_run_gets_the_environment_of_the_shell(place: Place) -> None:
    proxies = {"https_proxy": "http://proxy:3128", "NO_PROXY": "localhost,10.0.0.0/8"}
    done = install(
        place, BUILDER_ROOT_PASSWORD_FILE="/etc/golden 100%.pw", PATH="/opt/a $b/bin:/usr/bin:/bin", **proxies
    )
    assert done.returncode == 0, done.stderr
    unit = (place.folder / "units" / timer.SERVICE).read_text()
    for word in (
        '"BUILDER_ROOT_PASSWORD_FILE=/etc/golden 100%%.pw"',
        '"https_proxy=http://proxy:3128"',
        '"NO_PROXY=localhost,10.0.0.0/8"',
        '"PATH=/opt/a $b/bin:/usr/bin:/bin"',
    ):
        assert word in unit


def test_a_password_in_a_proxy_is_in_a_file_for_the_owner(place: Place) -> None:
    done = install(place, http_proxy='http://me:p$w%"d@proxy:3128/')
    file = place.folder / "units" / timer.SECRETS
    unit = (place.folder / "units" / timer.SERVICE).read_text()
    assert (done.returncode, file.stat().st_mode & 0o777, "p$w" in unit) == (0, 0o600, False)
    assert f"EnvironmentFile={file}\n" in unit
    words = ["sh", "-c", '. "$1"; echo "$http_proxy"', "sh", str(file)]
    assert subprocess.run(words, capture_output=True, text=True).stdout == 'http://me:p$w%"d@proxy:3128/\n'
    # Without one the file goes.
    assert (install(place).returncode, file.exists()) == (0, False)


@pytest.mark.parametrize("name", ["a\nExecStartPre=b", "a\\", "a ", "a\tb"])
def test_a_working_directory_that_a_unit_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="the working directory"):
        timer.units(["/bin/true"], tmp_path / name, "02:00")


@needs_systemd
def test_systemd_takes_a_directory_with_blanks_and_percent_signs(tmp_path: Path) -> None:
    folder = tmp_path / '100%d "ein" Ort'
    folder.mkdir()
    texts = timer.units(["/bin/echo", str(folder)], folder, "02:00", {"A": "100% $HOME \\"}, folder / "secrets")
    timer.write_units(texts, folder / "units", {"secrets": "A=b\n"})
    assert (folder / "units" / "secrets").stat().st_mode & 0o777 == 0o600
    lines = texts[timer.SERVICE].splitlines()
    assert f"WorkingDirectory={str(folder).replace('%', '%%')}" in lines
    assert 'Environment="A=100%% $HOME \\\\"' in lines


def test_without_systemd_times_are_judged_by_their_characters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timer, "ANALYZE", "no-such-program")
    timer.check_time("Mon..Fri *-*-* 02:00 Europe/Berlin")
    with pytest.raises(RecipeError, match="is not a time"):
        timer.check_time("02:00;")
    written = timer.write_units(timer.units(["/bin/true"], tmp_path, "02:00"), tmp_path / "units")
    assert [path.name for path in written] == [timer.SERVICE, timer.TIMER]
