"""The options of `builder nightly` that are checked before anything is built."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.cli.nightly import FARM_LEASE

pytestmark = pytest.mark.unit

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("lease", ["30s", "0", "-1", "inf", "nan", ""])
def test_a_lease_that_is_not_a_number_of_seconds_exits_2(builder: Run, lease: str) -> None:
    done = builder("nightly", "--scheduler", "tcp://127.0.0.1:1", **{FARM_LEASE: lease})
    assert done.returncode == 2
    assert f"{FARM_LEASE}={lease}: not a number of seconds" in done.stderr


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (("--", "--nosuch"), {}, "No such option: --nosuch"),
        (("--", "--jobs", "none"), {}, "Invalid value for '--jobs'"),
        (("--", "nosuchpipeline"), {}, "no pipeline named 'nosuchpipeline'"),
        (("--", "--keep-daily", "2"), {}, "--keep-daily is now called --keep"),
        (("--", "--connect", "qemu+ssh://elsewhere/system"), {}, "builder works on the hypervisor itself"),
        (("--at", "02:00\nUnit=poweroff.target"), {}, "is not a time"),
        (("--at", "02:00\r"), {}, "is not a time"),
        (("--at", "%n"), {}, "is not a time"),
        (("--at", ""), {}, "is not a time"),
        ((), {"BUILDER_ROOT_PASSWORT_FILE": "x"}, "BUILDER_ROOT_PASSWORT_FILE: builder has no such variable"),
        ((), {"BUILDER_REGISTRY_PASSWORD_FILE": "-"}, "BUILDER_REGISTRY_PASSWORD_FILE=-"),
        ((), {"https_proxy": "http://proxy\nExecStartPre=/bin/false"}, "$https_proxy contains a line break"),
        ((), {"BUILDER_ARTIFACTS": "a\nb"}, "contains a line break"),
    ],
)
def test_what_a_nightly_run_could_not_do_is_not_written(
    tmp_path: Path,
    pipelines: Path,
    builder: Run,
    words: tuple[str, ...],
    variables: dict[str, str],
    message: str,
) -> None:
    done = builder("nightly", "install-timer", "--to", "units", *words, **variables)
    assert (done.returncode, (tmp_path / "units").exists()) == (2, False)
    assert message in done.stderr.replace("\n", " ")
