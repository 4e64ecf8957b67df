"""No module imports itself through others; quick commands start without what they do not use."""

from __future__ import annotations

import graphlib
import subprocess
import sys

import grimp
import pytest

from builder.kickstart import lint

pytestmark = pytest.mark.unit

HEAVY = {"paramiko", "requests", "urllib3", "tenacity", "asyncio", "pyte", "cryptography", "rich"}
# These commands come by what reads public keys and makes SSH keys.
CRYPTOGRAPHY = ("run", "images", "vm", "housekeeping")
# Modules of commands that are over in a second, or that often find nothing to do.
QUICK = ("plan", "run", "images", "vm", "host", "media", "housekeeping")


def test_modules_import_one_another_in_one_direction() -> None:
    graph = grimp.build_graph("builder", exclude_type_checking_imports=False, cache_dir=None)
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    graphlib.TopologicalSorter(imported).prepare()


@pytest.mark.parametrize(
    "command",
    [
        *(["-c", f"import builder.cli.main, builder.cli.{name}"] for name in QUICK),
        ["-I", str(lint.CHECKER), "/dev/null"],
    ],
    ids=[*QUICK, "the checker of kickstarts"],
)
def test_what_takes_long_to_start_is_not_loaded_for_quick_commands(command: list[str]) -> None:
    said = subprocess.run([sys.executable, "-X", "importtime", *command], check=True, capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in said.stderr.splitlines()}
    assert loaded & {"builder", "pykickstart"}
    allowed = {"cryptography"} if command[-1].endswith(CRYPTOGRAPHY) else set()
    assert not loaded & (HEAVY - allowed)
