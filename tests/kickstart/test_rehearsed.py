"""What a rehearsal does not do is known before it starts, and is what its installer does not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.kickstart import rehearsed
from builder.rehearsal.installer import parse
from builder.rehearsal.installer import rehearsed as there
from builder.rehearsal.installer.release import facts

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FILES = sorted(Path(__file__).parent.glob("*/*.ks"))
DOCS = (ROOT / "docs" / "own-kickstart.md").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raid / --level=1 --device=md0 raid.1 raid.2", "raid: it makes no RAID arrays"),
        ("logvol / --vgname=v --name=p --thin --poolname=x", "logvol: it makes no thin pools"),
        ("autopart --type thinp", "autopart: it makes no thin pools"),
        ("part / --size=9 --encrypted", "part: it encrypts nothing"),
        ("logvol /usr --vgname=v --name=u --size=9", "logvol: it boots with /usr on the root file system only"),
        ("autopart --type=lvm", None),
        ("partition / --size=9", None),
    ],
)
def test_both_sides_refuse_the_same(text: str, said: str | None) -> None:
    found = rehearsed.refused(text)
    name, *words = text.split()
    assert (there.refused(name, words) is None) is (not found)
    assert [str(one) for one in found] == ([f"line 1: the rehearsal cannot carry out {said}"] if said else [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("firewall --enabled --ssh", ["firewall: no firewall runs in its system"]),
        ("firewall --disabled", []),
        ("keyboard --vckeymap=us --xlayouts=us", ["keyboard: layouts of X have nothing to configure"]),
        ("%packages --excludedocs\n%end", ["%packages: documentation and languages are the same for all"]),
        ("%addon org_fedora_oscap\n%end", ["%addon: the system is installed, and not hardened"]),
        ("%addon com_example\n%end", []),
        ("network --device=eth0 --vlanid=7", ["network: there are no VLANs: the line is not carried out"]),
        ("repo --name=a --baseurl=http://a\nrepo --name=b --baseurl=http://b", ["repo: no other repository is used"]),
    ],
)
def test_both_sides_say_what_is_left_out(text: str, said: list[str]) -> None:
    assert rehearsed.left_out(text) == said
    assert parse.read(f"{text}\n").left_out == said


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_real_files_are_judged_alike(path: Path) -> None:
    """Of what 7.9 itself accepts."""
    text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    said, made = "", None
    try:
        made = parse.read(text)
    except (parse.KickstartError, ValueError) as error:
        said = str(error)
    assert ("the rehearsal cannot carry out this command" in said) is bool(rehearsed.refused(text))
    if made is not None:
        assert set(rehearsed.left_out(text)) == set(made.left_out)


def test_the_table_has_every_command_once() -> None:
    # What no longer exists is there as None.
    by_release = [parse.read("", release).commands for release in facts.RELEASES.values()]
    known = {name for one in by_release for name, command in one.items() if command is not None} - {"method"}
    whole = {name for rule in there.REFUSED if not rule.words for name in rule.names}
    assert whole.isdisjoint(there.CARRIED_OUT)
    assert known == whole | there.CARRIED_OUT


def test_the_documents_list_what_is_left_out_and_refused() -> None:
    for rule in (*there.LEFT_OUT, *there.REFUSED):
        assert f"`{rule.names[0]}`" in DOCS, rule
