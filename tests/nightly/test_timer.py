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

from builder.nightly import ENVIRONMENT, timer
from tests.nightly.conftest import Place

CI = Path(__file__).parents[2] / "docs" / "ci"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_the_units_start_a_night_here(place: Place) -> None:
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
