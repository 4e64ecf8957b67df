"""The options of `builder nightly` that are checked before anything is built."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from builder.cli.nightly import FARM_LEASE

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("lease", ["30s", "0", "-1", "inf", "nan", ""])
def test_a_lease_that_is_not_a_number_of_seconds_exits_2(builder: Run, lease: str) -> None:
    done = builder("nightly", "--scheduler", "tcp://127.0.0.1:1", **{FARM_LEASE: lease})
    assert done.returncode == 2
    assert f"{FARM_LEASE}={lease}: not a number of seconds" in done.stderr
