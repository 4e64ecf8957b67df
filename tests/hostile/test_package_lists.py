"""Package lists of a medium that unpack to far more than any list has: refused, in little memory and time."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

MEMORY = 512 << 20
SMALL = 4 << 20
UNPACK = """
import sys
from pathlib import Path
from builder.errors import MediumError
from builder.iso import repodata
try:
    repodata.unpack(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), "the list")
except MediumError as fault:
    print(fault.brief)
"""


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


@pytest.mark.parametrize("program", ["gzip", "xz", "zstd", "bzip2"])
def test_a_bomb_is_refused_at_the_limit(tmp_path: Path, program: str) -> None:
    packed, out = tmp_path / "packed", tmp_path / "out"
    size = 64 << 20
    with packed.open("wb") as file:
        subprocess.run(f"head -c {size} /dev/zero | {program} -c", shell=True, stdout=file, check=True)
    words = [sys.executable, "-c", UNPACK, str(packed), str(out), str(SMALL)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, preexec_fn=limited, check=False)
    assert (done.stdout, done.returncode) == ("the list is larger than 4 MiB unpacked: no list of packages is\n", 0)
    assert not out.exists() or out.stat().st_size <= SMALL + (1 << 20)


def test_an_unpacker_that_wants_gigabytes_is_refused(tmp_path: Path) -> None:
    """The head of an xz file says how large its dictionary is, whatever its content is."""
    packed = tmp_path / "packed"
    with packed.open("wb") as file:
        words = ["xz", "-c", "--lzma2=preset=0,dict=1GiB,mf=hc3"]
        subprocess.run(words, input=b"<metadata/>", stdout=file, check=True)
    done = subprocess.run(
        [sys.executable, "-c", UNPACK, packed, tmp_path / "out", str(SMALL)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limited,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("the list is damaged\n", 0)
