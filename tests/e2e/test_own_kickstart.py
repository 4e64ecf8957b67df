"""A kickstart of Packer's usual kind, by the documents alone: from ks.cfg to an image, and a copy of it that grew.

The kickstart is the one in docs/own-kickstart.md, to the letter. It has its root on a logical volume.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]
NAME = "web-rehearsal"
DOCS = ROOT / "docs" / "own-kickstart.md"
# Asked in the guest, each answer a line.
ASKED = {
    "id -nG deploy": "deploy wheel",
    "sudo -l -U deploy | grep -c NOPASSWD": "1",
    "findmnt -n -o SOURCE /": "/dev/mapper/system-root",
    "swapon --show=NAME --noheadings | wc -l": "1",
    "rpm -q lvm2 | cut -d- -f1": "lvm2",
    "cat /proc/cmdline | grep -o 'rd.lvm.lv=[^ ]*' | tr '\\n' ' '": "rd.lvm.lv=system/root rd.lvm.lv=system/swap",
    "systemctl is-system-running --wait": "running",
}


@pytest.fixture(scope="module")
def web(person: Person, rehearsal_iso: Path) -> str:
    """Everything that `builder run --kickstart` said while it made the image."""
    (person.folder / "ks.cfg").write_text(DOCS.read_text().split("```\n")[1])
    medium = person.folder / "medium.iso"
    if not medium.exists():
        shutil.copyfile(rehearsal_iso, medium)
        medium.chmod(0o444)
    done = person.run("run", "--kickstart", "ks.cfg", "--media", "medium.iso", "--name", "web", timeout=2000)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stderr


def test_it_becomes_an_image(person: Person, web: str) -> None:
    assert "published: web-rehearsal@" in web
    assert NAME in [one["name"] for one in person.json("images", "list")]


def test_what_is_said_is_what_the_documents_say(person: Person, web: str) -> None:
    """Times aside: each line of the transcript is one that was said."""
    told = re.sub(r"\d+(\.\d+)?( ?[a-zA-Z]+)?", "N", web)
    transcript = DOCS.read_text().split("```console\n")[1].split("```")[0]
    notes = [line.strip() for line in transcript.splitlines() if "becomes" in line or "not rehearsed" in line]
    assert len(notes) > 9
    for note in notes:
        assert re.sub(r"\d+(\.\d+)?( ?[a-zA-Z]+)?", "N", note) in told


def test_a_copy_with_a_larger_disk_has_grown(person: Person, web: str) -> None:
    try:
        person.json("clone", NAME, "web-1", "--wait", "--disk-size", "12GiB", "--memory", "1GiB")
        script = "; ".join(f"echo $({question})" for question in [*ASKED, "df -B1 --output=size / | tail -1"])
        done = person.run("vm", "ssh", "web-1", "--", script)
        assert done.returncode == 0, done.stderr
        *answers, size = done.stdout.splitlines()
        assert dict(zip(ASKED, answers, strict=True)) == ASKED
        # 4 GiB, and what the disk has more.
        assert int(size) > 7 << 30
    finally:
        left = [vm["name"] for vm in json.loads(person.run("vm", "list", "--json").stdout)]
        if left:
            assert person.run("vm", "delete", *left).returncode == 0
