"""The checks of a kickstart: what 7.9 accepts passes, what it refuses or replaces is found, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.kickstart import lint
from builder.kickstart.el7_rules import LintFinding, known_names
from builder.rehearsal.installer import el7_checker

pytestmark = pytest.mark.unit

HEAD = "text\nlang en_US.UTF-8\nkeyboard us\ntimezone UTC\n"


def in_process(text: str) -> list[LintFinding]:
    """What the checker says, without a process of its own."""
    return [LintFinding(one["line"], one["severity"], one["message"]) for one in el7_checker.check(text)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without a process for each of many texts."""
    monkeypatch.setattr(lint, "_syntax", in_process)


def errors(text: str) -> list[str]:
    return [str(finding) for finding in lint.errors(lint.lint(HEAD + text))]


@pytest.mark.parametrize(
    "line",
    [
        "reboot --kexec",
        "mount /dev/sda1 /",
        "firewall --use-system-defaults",
        'sshpw --username=root --sshkey "ssh-rsa AAAA x"',
        'sshkey --username=root "ssh-rsa AAAA x"',
        "url --url=https://m/os --sslcacert=/a --sslclientcert=/b --sslclientkey=/c",
        "repo --name=m --baseurl=https://m/os --sslcacert=/a --sslclientcert=/b --sslclientkey=/c",
        "logvol / --vgname=v --name=r --size=9 --cachepvs=pv.2 --cachesize=9 --cachemode=writeback",
        "ignoredisk --drives=sdb --nonfatal",
        "xconfig --server=Xorg --startxonboot",
        "bootloader --location=mbr --iscrypted --password=grub.pbkdf2.sha512.10000.AB.CD",
        "services --enabled=sshd, chronyd",
        "timezone Japan",
        "timezone Etc/GMT+3 --utc",
        "timezone --utc US/Pacific",
        "keyboard --vckeymap=de-nodeadkeys --xlayouts='de (nodeadkeys)','us'",
        "keyboard trq",
        "lang sr_RS.UTF-8@latin",
        "lang C",
        "part / --size=1 --ondisk=disk/by-id/*BUILDER-SYSTEM",
        "part / --size=1 --ondisk=vda|sda",
        "repo --name=os --baseurl=http://m/$releasever/$basearch",
    ],
)
def test_what_7_9_accepts_passes(quick: None, line: str) -> None:
    assert errors(line + "\n") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bootloader --location=partition", "line 5: bootloader: GRUB 2 is not installed to a partition"),
        ("bootloader --iscrypted --password=$6$a$b", "line 5: bootloader: --iscrypted wants a grub.pbkdf2 hash"),
        ("part / --size=1 --ondisk=nosuch", "line 5: part: nosuch is no name of a disk"),
        ("ignoredisk --only-use=sda,blorb", "line 5: ignoredisk: blorb is no name of a disk"),
        ("zerombr yes", "line 5: unrecognized arguments: yes"),
        ("url --metalink=http://m", "line 5: unrecognized arguments: --metalink"),
        ("authselect --foo", "line 5: Unknown command: authselect"),
        ("%certificate\n%end", "line 5: Unknown kickstart section: %certificate"),
        ("dmraid --name=a --dev=b", "line 5: dmraid: the installer of CentOS 7 does not support it"),
        ("vnc --password=short", "line 5: vnc: the password must have six to eight"),
        ("user --name=bob --gecos='Bob", "line 5: No closing quotation"),
        ("%ksappend other.ks", "line 5: %ksappend: there is no file other.ks"),
        ("%include other.ks", "line 5: %include other.ks: no %pre makes this file"),
        (
            "timezone Mars/Olympus",
            "line 5: timezone: Mars/Olympus is not known, and the installer goes on with America/New_York",
        ),
        ("keyboard --xlayouts=zz", "line 5: keyboard: zz is not known"),
        (
            "lang en-US.UTF-8",
            "line 5: lang: en-US.UTF-8 is not known, and the installer goes on with another one instead; did",
        ),
        ("$SNIPPET('network_config')", "line 5: $SNIPPET(network_config): a template that was not filled in"),
        ("%packages\n@core", "line 6: Section %packages does not end with %end."),
    ],
)
def test_what_7_9_refuses_or_replaces_is_found(quick: None, text: str, said: str) -> None:
    found = errors(text + "\n")
    assert any(one.startswith(said) for one in found), found


@pytest.mark.parametrize("word", ["__DNS_SERVER__", "${dns}", "{{ dns }}", "@@dns@@", "<%= dns %>"])
def test_what_looks_like_a_template_is_warned_of(quick: None, word: str) -> None:
    (found,) = lint.lint(f"{HEAD}network --bootproto=dhcp --nameserver='{word}'\n")
    assert (found.line, found.severity) == (5, "warning")
    assert found.message == "looks like a template that was not filled in"


def test_a_line_of_a_template_is_told_once(quick: None) -> None:
    assert len(errors("$SNIPPET('network_config')\n")) == 1
    assert len(errors("$SNIPPET('network_config')\nblorb\n")) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("timezone SGT", "instead; `timedatectl list-timezones` lists them"),
        ("timezone Russia/Moscow", "instead; did you mean Europe/Moscow?"),
        ("lang xx", "instead; write one such as en_US.UTF-8"),
        ("keyboard zz", "instead; `localectl list-keymaps` lists them"),
    ],
)
def test_an_unknown_name_is_told_with_what_to_write(quick: None, line: str, said: str) -> None:
    (found,) = lint.errors(lint.lint(f"text\n{line}\n"))
    assert found.message.endswith(said)


def test_what_the_bytes_do_is_told_once_and_hides_nothing() -> None:
    found = lint.lint("\ufeff" + HEAD.replace("\n", "\r\n") + "foo\r\n")
    assert [(finding.line, finding.message.partition(":")[0]) for finding in found] == [
        (1, "a byte order mark before the first line"),
        (1, "DOS line endings (and 4 more)"),
        (5, "Unknown command"),
    ]


def test_files_that_lie_beside_it_are_there(tmp_path: Path) -> None:
    text = HEAD + "%ksappend parts/other.ks\n%include more.ks\n"
    assert lint.errors(lint.lint(text, beside={"other.ks", "more.ks"})) == []


def test_an_included_file_that_a_script_makes_is_there() -> None:
    script = "%pre\necho zerombr > /tmp/part.ks\n%end\n"
    assert errors("%include /tmp/part.ks\n" + script) == []
    assert errors('%include /tmp/disk.ks\n%pre\nname=disk; echo zerombr > "/tmp/$name.ks"\n%end\n') == []
    assert errors("%include part-of-it.ks\n" + script) != []


def test_a_checker_that_stops_has_not_said_that_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("raise SystemExit('no closing quotation')", "print('[')", "print('[1]')", ""):
        (tmp_path / "checker.py").write_text(program)
        monkeypatch.setattr(lint, "CHECKER", tmp_path / "checker.py")
        (found,) = lint.errors(lint.lint(HEAD))
        assert found.message.startswith("the checker stopped, so nothing is known of the rest: "), program


def test_deprecations_are_warnings() -> None:
    found = lint.lint(HEAD + "%packages --nobase\n%end\nservices --enabled=a, b\n")
    assert {finding.severity for finding in found} == {"warning"}
    assert LintFinding(7, "warning", "services: the installer does not look at: b") in found


@pytest.mark.parametrize(
    ("kind", "names"), [("timezones", {"UTC", "Asia/Calcutta"}), ("keyboards", {"us", "uk", "dvorak"})]
)
def test_known_names(kind: str, names: set[str]) -> None:
    assert names <= known_names(kind)
    assert not any(name.startswith("#") for name in known_names(kind))


def test_users_that_are_not_made_are_told(quick: None) -> None:
    found = lint.lint(HEAD + "group --name=web\nuser --name=web\nuser --name=root\nuser --name=db --groups=db,wheel\n")
    assert [(finding.line, finding.severity) for finding in found] == [(6, "warning"), (7, "warning")]
