"""Adapting an own kickstart: what is changed, what is refused, and that nothing else is touched."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from builder.kickstart import demands, last_act, lines, lint, parse
from builder.kickstart.adapt import Adapted, KickstartChange, Terms, adapt
from tests.kickstart.test_lint import in_process

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent
SNIPPETS = last_act.collect([Path(__file__).parents[2] / "kickstarts"])
TERMS = Terms("$6$salt$hash", "BUILDER-SYSTEM", "0123abcd", last_act.maker(SNIPPETS, "0123abcd"))
OURS = "disk/by-id/*BUILDER-SYSTEM"
GOOD = """\
text
cdrom
lang en_US.UTF-8
keyboard us
timezone UTC
rootpw --iscrypted $6$salt$hash
network --bootproto=dhcp --device=eth0
ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM
zerombr
clearpart --all --initlabel
part / --size=3000 --grow
bootloader --location=mbr
poweroff
%packages
@core
%end
"""


def changes(text: str, terms: Terms = TERMS) -> list[KickstartChange]:
    """All but the last act, which every kickstart lacks here."""
    return [change for change in adapt(text, terms).changes if not change.now.startswith("%post")]


def ending(made: Adapted) -> list[str]:
    """All that is wrong with an adapted kickstart, whoever finds it."""
    found = [f"refused: {refusal.reason}" for refusal in made.refused]
    found += [f"lint: {finding.message}" for finding in lint.errors(lint.lint(made.text))]
    return found + [
        f"unmet: {finding.message}" for finding in demands.unmet(made.text, "BUILDER-SYSTEM", "0123abcd", ())
    ]


def test_a_kickstart_that_has_all_gets_the_last_act_alone() -> None:
    made = adapt(GOOD, TERMS)
    (change,) = made.changes
    assert made.text.startswith(GOOD + "%post --erroronfail\nset -eu\n")
    assert (change.line, change.was, change.now) == (17, "", "%post --erroronfail")
    assert change.reason.endswith("first-boot, sshd, initramfs, seal, marker")


def test_what_is_adapted_needs_nothing_more_but_seal() -> None:
    """The parts of the last act are known again; a kickstart that was written for builder is left alone."""
    made = adapt(GOOD, TERMS)
    assert adapt(made.text, TERMS) == Adapted(made.text, ())


def test_a_report_of_another_build_does_not_count() -> None:
    made = adapt(adapt(GOOD, TERMS).text, replace(TERMS, token="fedc", last_act=last_act.maker(SNIPPETS, "fedc")))
    assert made.text.rstrip().endswith('echo "BUILDER INSTALLED fedc" > /dev/ttyS1\n%end')
    assert made.changes[0].reason.endswith(": seal, marker")


def test_the_last_act_is_the_shipped_one() -> None:
    made = adapt(GOOD, TERMS).text
    (script,) = [script for script in parse.scripts(made) if script.kind == "%post"]
    assert script.words == ("%post", "--erroronfail")
    assert [line for line in script.body.splitlines() if line][-1] == 'echo "BUILDER INSTALLED 0123abcd" > /dev/ttyS1'
    for part in ("sshd", "initramfs", "seal"):
        assert SNIPPETS[f"snippets/{part}.sh.j2"].rstrip("\n") in script.body
    assert SNIPPETS["snippets/first-boot.sh"] in made
    assert subprocess.run(["dash", "-n"], input=script.body, text=True, capture_output=True, check=False).stderr == ""


@pytest.mark.parametrize(
    ("body", "packages", "left"),
    [
        ("sed -i 's/.*PermitRootLogin.*/PermitRootLogin yes/' /etc/ssh/sshd_config", "", "sshd"),
        ("dracut -f --no-hostonly /boot/x 3.10", "", "initramfs"),
        ("true", "dracut-config-generic\n", "initramfs"),
        # This lets nobody in: it does not count.
        ("echo PermitRootLogin no >> /etc/ssh/sshd_config", "", ""),
    ],
)
def test_what_the_kickstart_brings_itself_stays(body: str, packages: str, left: str) -> None:
    text = GOOD.replace("@core\n", f"@core\n{packages}") + f"%post\n{body}\n%end\n"
    (change,) = adapt(text, TERMS).changes
    parts = change.reason.rpartition(": ")[2].split(", ")
    assert parts == [part for part in ("first-boot", "sshd", "initramfs", "seal", "marker") if part != left]


def test_cloud_init_is_the_only_owner_of_the_identity() -> None:
    made = adapt(GOOD.replace("@core\n", "@core\ncloud-init\n"), TERMS)
    (change,) = made.changes
    assert change.reason.endswith("sshd, initramfs, seal, marker")
    assert "cloud-init, sshd" in change.reason
    assert SNIPPETS["snippets/tell-identity.sh"] in made.text
    assert SNIPPETS["snippets/first-boot.sh"] not in made.text
    assert adapt(made.text, TERMS) == Adapted(made.text, ())


@pytest.mark.parametrize("end", ["reboot", "reboot --eject", "reboot --kexec", "halt", "shutdown"])
def test_the_end_is_a_power_off(end: str) -> None:
    (change,) = changes(GOOD.replace("poweroff", end))
    assert (change.line, change.was, change.now) == (13, end, "poweroff")
    (change,) = changes(GOOD.replace("poweroff\n", ""))
    assert (change.was, change.now) == ("", "poweroff")


@pytest.mark.parametrize(
    "source",
    [
        "url --url=http://m/os",
        "nfs --server=a --dir=/b",
        "harddrive --partition=sdb1 --dir=/",
        "url --mirrorlist=http://m",
    ],
)
def test_the_source_is_the_medium(source: str) -> None:
    (change,) = changes(GOOD.replace("cdrom", source))
    assert (change.line, change.was, change.now) == (2, source, "cdrom")
    (change,) = changes(GOOD.replace("cdrom\n", ""))
    assert change.now == "cdrom"


def test_with_a_network_the_sources_stay() -> None:
    open_ = replace(TERMS, networked=True)
    assert changes(GOOD.replace("cdrom", "url --url=http://m/os"), open_) == []
    (change,) = changes(GOOD.replace("cdrom\n", ""), open_)
    assert change.now == "cdrom"


@pytest.mark.parametrize(
    "line", ["rootpw secret12", "rootpw --plaintext secret12", "rootpw --lock", "rootpw --iscrypted $1$x"]
)
def test_the_root_password_is_builders_and_the_other_is_not_shown(line: str) -> None:
    (change,) = changes(GOOD.replace("rootpw --iscrypted $6$salt$hash", line))
    assert (change.line, change.was, change.now) == (6, "rootpw ********", "rootpw --iscrypted $6$salt$hash")
    (change,) = changes(GOOD.replace("rootpw --iscrypted $6$salt$hash\n", ""))
    assert change.now == "rootpw --iscrypted $6$salt$hash"


@pytest.mark.parametrize("disk", ["sda", "vda", "hda", "/dev/vda", "nvme0n1", "vda|sda", "disk/by-id/virtio-0"])
def test_the_one_disk_becomes_ours(disk: str) -> None:
    text = GOOD.replace("part / ", f"part / --ondisk={disk} --ondrive {disk} ")
    text = text.replace(f"--only-use={OURS}", f"--only-use={disk}")
    text = text.replace("clearpart --all", f"clearpart --all --drives={disk}")
    text = text.replace(
        "bootloader --location=mbr", f"bootloader --boot-drive={disk} --driveorder={disk},sdz --location=mbr"
    )
    made = adapt(text, TERMS)
    assert made.refused == ()
    assert [(change.line, change.now) for change in made.changes[:-1]] == [
        (8, f"ignoredisk --only-use={OURS}"),
        (10, f"clearpart --all --drives={OURS} --initlabel"),
        (11, "part / --size=3000 --grow"),
        (12, "bootloader --location=mbr"),
    ]


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("clearpart --list=sda1,sda2", "clearpart --all"),
        ("clearpart --all --drives=sda # the first", f"clearpart --all --drives={OURS} # the first"),
    ],
)
def test_what_is_cleared(was: str, now: str) -> None:
    (change,) = changes(GOOD.replace("clearpart --all --initlabel", was))
    assert change.now == now


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "part /srv --size=9 --ondisk=sdb\npart /opt --size=9 --ondisk=sda",
            "2 disks are meant, sdb (line 14) and sda (line 15)",
        ),
        ("clearpart --all --drives=sda,sdb", "2 disks are meant, sda (line 14) and sdb (line 14)"),
        ("clearpart --list=sda1,nvme0n1p1", "2 disks are meant, sda (line 14) and nvme0n1 (line 14)"),
        ("part /home --onpart=sda3 --noformat", "--onpart takes up what is on a disk already"),
        ("logvol / --vgname=vg --name=root --useexisting", "--useexisting takes up"),
        ("liveimg --url=file:///x.img", "`liveimg` installs an image of its own"),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_its_line(line: str, reason: str) -> None:
    refused = adapt(GOOD.replace("%packages", f"{line}\n%packages"), TERMS).refused
    assert refused[0].line in (14, 15)
    assert reason in refused[0].reason


def test_a_section_without_an_end_is_refused() -> None:
    (refused,) = adapt(GOOD.removesuffix("%end\n"), TERMS).refused
    assert (refused.line, refused.reason[:33]) == (14, "%packages does not end with %end,")


def test_disks_that_are_left_alone_are_not_meant() -> None:
    made = adapt(GOOD.replace(f"--only-use={OURS}", "--drives=sdb,sdc") + "part /x --size=1 --ondisk=sda\n", TERMS)
    assert made.refused == ()


@pytest.mark.parametrize(
    ("clearing", "added"),
    [
        ("", ["zerombr"]),
        ("clearpart --none\n", ["zerombr"]),
        ("clearpart --linux\n", ["zerombr"]),
        ("clearpart --none --initlabel\n", []),
        ("clearpart --all\n", []),
        ("zerombr\n", []),
    ],
)
def test_a_new_disk_gets_a_label(clearing: str, added: list[str]) -> None:
    text = GOOD.replace("zerombr\nclearpart --all --initlabel\n", clearing)
    assert [change.now for change in changes(text)] == added


@pytest.mark.parametrize(
    ("line", "now"),
    [
        ("network --bootproto=dhcp", None),
        ("network --bootproto=dhcp --device=link --activate", None),
        ("network --device=ens192 --bootproto=dhcp", "network --device=eth0 --bootproto=dhcp"),
        ("network --device 52:54:00:aa:bb:cc", "network --device=eth0"),
        ("network --device=eth0 --onboot=no", "network --device=eth0 --onboot=yes"),
        (
            "network --bootproto=static --ip=10.0.0.2 --netmask=255.0.0.0 --gateway=10.0.0.1 --nameserver=10.0.0.1",
            "network --bootproto=dhcp --nameserver=10.0.0.1",
        ),
        ("network --device=bond0 --bondslaves=eth0,eth1", None),
    ],
)
def test_the_interface_gets_its_address_by_dhcp(line: str, now: str | None) -> None:
    found = changes(GOOD.replace("network --bootproto=dhcp --device=eth0", line))
    assert [change.now for change in found] == ([now] if now else [])


@pytest.mark.parametrize("line", ["", "network --hostname=web.example.com\n"])
def test_an_interface_that_nobody_names_would_stay_down(line: str) -> None:
    (change,) = changes(GOOD.replace("network --bootproto=dhcp --device=eth0\n", line))
    assert (change.was, change.now) == ("", "network --bootproto=dhcp --device=eth0 --onboot=yes")


def test_lines_keep_their_numbers_and_comments_their_words() -> None:
    text = "# first\n\n" + GOOD.replace("poweroff", "reboot   # at last").replace("cdrom", "  url --url http://m")
    made = adapt(text, TERMS)
    assert made.text.splitlines()[: len(text.splitlines())] == [
        {"reboot   # at last": "poweroff", "  url --url http://m": "cdrom"}.get(line, line)
        for line in text.splitlines()
    ]
    for change in made.changes:
        if change.was:
            assert text.splitlines()[change.line - 1] == change.was
        assert made.text.splitlines()[change.line - 1] == change.now


def test_a_form_feed_ends_no_line() -> None:
    made = adapt("# a\x0cb\u2028c\n" + GOOD.replace("poweroff", "reboot"), TERMS)
    assert made.changes[0].line == 14
    assert made.text.startswith("# a\x0cb\u2028c\n" + GOOD)


def test_a_network_line_that_a_script_makes_is_left_to_it() -> None:
    text = GOOD.replace("network --bootproto=dhcp --device=eth0", "%include /tmp/network.ks")
    assert changes(text + "%pre\necho network --device=eth0 --bootproto=dhcp > /tmp/network.ks\n%end\n") == []


def test_what_an_editor_left_is_taken_out() -> None:
    made = adapt("\ufeff" + GOOD.replace("\n", "\r\n"), TERMS)
    assert made.text == adapt(GOOD, TERMS).text
    assert [(change.line, change.was) for change in made.changes[:2]] == [(1, "a byte order mark"), (1, "CR LF")]


def test_files_that_come_along_are_copied_from_whichever_cd_has_them() -> None:
    terms = replace(TERMS, files=("users.ks", "setup.sh"))
    made = adapt(GOOD.replace("zerombr", "%include users.ks\nzerombr"), terms)
    (pre,) = [script for script in parse.scripts(made.text) if script.kind == "%pre"]
    assert pre.words == ("%pre", "--erroronfail")
    assert "for file in users.ks setup.sh; do" in pre.body
    assert "%include /run/install/users.ks" in made.text.splitlines()
    assert subprocess.run(["dash", "-n"], input=pre.body, text=True, capture_output=True, check=False).stderr == ""
    assert demands.unmet(made.text, "BUILDER-SYSTEM", "0123abcd", terms.files) == []


def test_the_copying_script_copies_and_notices_what_is_missing(tmp_path: Path) -> None:
    terms = replace(TERMS, files=("a.ks", "b.ks"))
    (pre,) = [script for script in parse.scripts(adapt(GOOD, terms).text) if script.kind == "%pre"]
    (tmp_path / "cd").mkdir()
    (tmp_path / "sr0").touch()
    (tmp_path / "cd" / "a.ks").write_text("a")
    for name, program in {"mount": "ln -sfn $CD $4", "umount": "rm $1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    body = pre.body.replace("/run/install", f"{tmp_path}/install").replace("/run/builder-medium", f"{tmp_path}/m")
    body = body.replace("/dev/sr*", f"{tmp_path}/sr*").replace(
        f"mkdir -p {tmp_path}/install {tmp_path}/m", f"mkdir -p {tmp_path}/install"
    )
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CD": str(tmp_path / "cd")}
    assert subprocess.run(["dash", "-c", body], env=env, check=False).returncode == 1
    (tmp_path / "cd" / "b.ks").write_text("b")
    assert subprocess.run(["dash", "-c", body], env=env, check=False).returncode == 0
    assert sorted(path.name for path in (tmp_path / "install").iterdir()) == ["a.ks", "b.ks"]


def test_what_is_appended_stands_where_it_was_asked_for() -> None:
    terms = replace(TERMS, files=("more.ks",), appended={"more.ks": "skipx\nreboot\n"})
    made = adapt(GOOD.replace("zerombr", "%ksappend http://x/more.ks\nzerombr"), terms)
    lines_ = made.text.splitlines()
    assert lines_[8:11] == ["skipx", "poweroff", "zerombr"]


# What becomes of each file; None: it is adapted and nothing is wrong with it.
CASES: dict[str, Sequence[str] | None] = {
    "cases/loader-in-partition": ["lint: bootloader: GRUB 2 is not installed to a partition"],
    "cases/loader-crypt": ["lint: bootloader: --iscrypted wants a grub.pbkdf2 hash"],
    "cases/no-firewalld": [
        "lint: firewall: %packages excludes firewalld, and without firewall-offline-cmd the installer ends",
        "lint: auth: %packages excludes authconfig, and without authconfig the installer ends",
    ],
    "cases/no-packages": ["unmet: there is no %packages section"],
    "cases/etc-apart": ["lint: /etc must be on the / file system"],
    "cases/home-on-vfat": ["lint: /home must be on a Linux file system, not on vfat"],
    "cases/include-missing": ["lint: %include /tmp/nothing: no %pre makes this file", "unmet: %include /tmp/nothing"],
    "cases/multipath": [
        "lint: the following arguments are required",
        "lint: multipath: the installer of CentOS 7 does",
    ],
    "cases/no-loader": ["unmet: without a boot loader the image would not boot"],
    "cases/upgrade": ["lint: upgrade: the installer of CentOS 7 does not support it"],
    "cases/quote-open": ["lint: No closing quotation"],
    "cases/ksappend-missing": ["lint: %ksappend: there is no file more.ks"],
    "cases/two-disks": ["refused: 2 disks are meant, sda (line 12) and sdb (line 13)"],
    "cases/timezone-unknown": [
        "lint: timezone: Europe/Berln is not known, and the installer goes on with America/New_York"
    ],
    "cases/language-unknown": ["lint: lang: xx_YY.UTF-8 is not known", "lint: keyboard: klingon is not known"],
    "cases/encrypted": ["unmet: an encrypted disk asks for its passphrase"],
    "cases/sshd-off": ["unmet: sshd is disabled"],
    "real/cobbler-template": ["lint: $yum_repo_stanza: a template that was"],
    "real/container-base": ["unmet: without a boot loader"],
    "real/diskimage-builder": ["refused: %packages does not end with %end"],
    "real/ovirt-node": ["refused: `liveimg` installs an image of its own"],
    "real/raid-of-two": ["refused: 2 disks are meant, sda (line 9) and sdb (line 9)"],
    "real/reused-partition": ["refused: --onpart takes up what is on a disk already"],
}
FILES = sorted(str(path.relative_to(HERE)).removesuffix(".ks") for path in HERE.rglob("*.ks"))


@pytest.mark.parametrize("name", FILES)
def test_each_kickstart_has_its_ending(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lint, "_syntax", in_process)
    made = adapt((HERE / f"{name}.ks").read_bytes().decode(), TERMS)
    found = ending(made)
    expected = CASES.get(name)
    if expected is None:
        assert found == []
        assert "rootpw --iscrypted $6$salt$hash" in made.text
        assert not re.search(r"--ondisk|\b(sd[a-z]|vda|hda|nvme0n1)\b(?!.*\$disk)", "\n".join(top(made.text)))
        return
    for wanted in expected:
        assert any(said.startswith(wanted) for said in found), found


def top(text: str) -> list[str]:
    """The commands of a kickstart, outside of its sections."""
    return [" ".join((command.name, *command.words)) for command in parse.read(text).commands]


def test_every_expected_file_is_there() -> None:
    assert set(CASES) <= set(FILES)


@pytest.mark.parametrize(
    ("line", "without", "with_"),
    [
        ("part / --ondisk=sda --size=1", "part / --size=1", "part / --ondisk=new --size=1"),
        ("part / --ondisk sda --size=1", "part / --size=1", "part / --ondisk=new --size=1"),
        ('part / --ondisk="sda"', "part /", "part / --ondisk=new"),
        ("part /\t--ondisk=sda\t# --ondisk=x", "part /\t# --ondisk=x", "part /\t--ondisk=new\t# --ondisk=x"),
        ("part / --size=1  # a", "part / --size=1  # a", "part / --size=1 --ondisk=new  # a"),
        ("part / --label='a # b' --ondisk=sda", "part / --label='a # b'", "part / --label='a # b' --ondisk=new"),
        ("part / --label=a#b --ondisk=sda", "part / --label=a#b", "part / --label=a#b --ondisk=new"),
    ],
)
def test_an_option_of_a_line_is_changed_and_nothing_else(line: str, without: str, with_: str) -> None:
    assert lines.without_option(line, "ondisk") == without
    assert lines.with_option(line, "ondisk", "new") == with_
