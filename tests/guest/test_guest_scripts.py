"""The scripts that run in a guest of any release: they look at the system that they run in."""

from __future__ import annotations

import configparser
import re
import stat
import subprocess
from pathlib import Path

import pytest

from builder.guest import report
from builder.kickstart import render
from tests.kickstart.test_kickstart import OWN, TEMPLATES, VARS, section

pytestmark = pytest.mark.unit

STAGES = Path(__file__).parents[2] / "builder" / "stages"
CONF = "instance-id=i-1\naddress=10.1.2.3/24\ngateway=10.1.2.1\ndns=10.1.2.53,10.1.2.54\n"
IFCFG = "etc/sysconfig/network-scripts/ifcfg-eth0"
KEYFILE = "etc/NetworkManager/system-connections/eth0.nmconnection"
ANACONDAS = "[connection]\nid=eth0\nuuid=3c2a\ntype=ethernet\n\n[ethernet]\nmac-address=52:54:00:00:00:01\n"


@pytest.fixture(params=["el7", "el8", "el9"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root directory with what the releases differ in."""
    for name in (IFCFG, KEYFILE):
        (tmp_path / name).parent.mkdir(parents=True)
    if request.param == "el7":
        (tmp_path / "etc/rc.d/init.d").mkdir(parents=True)
        (tmp_path / "etc/rc.d/init.d/network").touch()
    if request.param in ("el7", "el8"):
        (tmp_path / IFCFG).write_text("TYPE=Ethernet\nUUID=3c2a\nHWADDR=52:54:00:00:00:01\nDEVICE=eth0\n")
    if request.param == "el9":
        (tmp_path / KEYFILE).write_text(ANACONDAS)
        (tmp_path / KEYFILE).chmod(0o600)
    return tmp_path


PLACES = re.compile(r"(?<![\w.$\"}*])/(etc|usr/lib(?:exec)?|var|run|root|home|tmp|zeros|dev/ttyS1|dev/console)\b")
STUBS = "restorecon() { :; }\nfstrim() { :; }\nsync() { :; }\nshred() { :; }\n"


def run(guest: Path, script: str, tail: str = "", *, reads: tuple[str, ...] = ()) -> str:
    """Run a script's text with all its absolute paths below a folder; what labels and trims files is left out.

    Args:
        reads: folders of this host that it only reads from.
    """
    moved = PLACES.sub(rf"{guest}/\1", re.sub(r"^PATH=.*$|^#.*$", "", script, flags=re.M))
    # They remove files: nothing of this host may be left in them.
    left = set(re.findall(r"(?:^|[\s\"'=(>])(/[a-z]+)", moved.replace(str(guest), "GUEST"), re.M))
    assert left <= {"/dev", "/sys", "/d", *reads}, left
    done = subprocess.run(["dash", "-c", f"{STUBS}{moved}\n{tail}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


FIRST, SECOND = "52:54:00:00:00:01", "52:54:00:00:00:02"
CARDS = f"""
report() {{ echo "$*"; }}
find_card() {{
    case $1 in
        {FIRST}) echo eth0 ;;
        {SECOND}) echo eth1 ;;
        *) return 1 ;;
    esac
}}
"""


def set_address(guest: Path, conf: str = CONF) -> None:
    functions = (TEMPLATES / "snippets" / "first-boot.sh").read_text().partition("\n# first-boot --hold")[0]
    for name in ("run", "var/lib/builder"):
        (guest / name).mkdir(parents=True)
    (guest / "run" / "builder.conf").write_text(conf)
    run(guest, functions, "set_addresses")


def set_cards(guest: Path, *lines: str) -> str:
    """Have the cards eth0 and eth1 set up; what the unit says."""
    for name in ("run", "var/lib/builder"):
        (guest / name).mkdir(parents=True, exist_ok=True)
    (guest / "run" / "builder.conf").write_text("".join(f"card={line}\n" for line in lines))
    functions = (TEMPLATES / "snippets" / "first-boot.sh").read_text().partition("\n# first-boot --hold")[0]
    return run(guest, functions, f"{CARDS}\nset_addresses")


def keyfile(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(path.read_text())
    return parser


def test_the_address_is_written_where_the_guest_reads_it(guest: Path) -> None:
    scripts = (guest / "etc/rc.d").exists()
    set_address(guest)
    assert (guest / IFCFG).exists() is scripts
    assert (guest / KEYFILE).exists() is not scripts
    if scripts:
        said = (guest / IFCFG).read_text().splitlines()
        assert said[-5:] == ["IPADDR=10.1.2.3", "PREFIX=24", "GATEWAY=10.1.2.1", "DNS1=10.1.2.53", "DNS2=10.1.2.54"]
        assert "BOOTPROTO=none" in said
        return
    assert stat.S_IMODE((guest / KEYFILE).stat().st_mode) == 0o600
    read = keyfile(guest / KEYFILE)
    assert dict(read["connection"]) == {"id": "eth0", "type": "ethernet", "interface-name": "eth0"}
    assert dict(read["ipv4"]) == {
        "method": "manual",
        "address1": "10.1.2.3/24,10.1.2.1",
        "dns": "10.1.2.53;10.1.2.54;",
    }


# What a machine does with its host or its kernel; each call is told.
HOST = """
find_seed() { seed=GUEST/seed && [ -e "$seed" ]; }
systemctl() { case $1 in list-jobs) echo '1 builder-hold.service start running' ;; *) echo "systemctl $*" ;; esac; }
date() { echo "date $*"; }
mount() { return 1; }
umount() { return 1; }
timeout() { shift; "$@"; }
dd() { echo random > GUEST/run/builder-random; }
reboot() { echo "reboot $*"; kill "$reseeding" 2> /dev/null; exit; }
reseed() { read -r mixed; }
practise() { :; }
look_for_card() { :; }
wait_for_card() { :; }
is_to_wait() { [ -e GUEST/marked ]; }
"""
OLD = "0123456789abcdef0123456789abcdef"


def hold(guest: Path, tail: str = "hold") -> str:
    """Run the part of first-boot that waits for an identity, in a system that has booted once."""
    for name in ("etc/machine-id", "var/lib/systemd/random-seed", f"var/log/journal/{OLD}/system.journal"):
        (guest / name).parent.mkdir(parents=True, exist_ok=True)
        (guest / name).write_text(f"{OLD}\n")
    for name in ("run", "dev", "var/lib/builder"):
        (guest / name).mkdir(parents=True, exist_ok=True)
    functions = (TEMPLATES / "snippets" / "first-boot.sh").read_text().partition('\nif [ "$1" = --hold ]')[0]
    return run(guest, functions, HOST.replace("GUEST", str(guest)) + tail, reads=("/proc", "/usr"))


def test_an_ordinary_boot_waits_for_nothing_and_keeps_its_machine_id(tmp_path: Path) -> None:
    assert hold(tmp_path) == ""
    assert (tmp_path / "etc/machine-id").read_text() == f"{OLD}\n"
    assert (tmp_path / "var/lib/systemd/random-seed").exists()


def test_a_machine_that_was_held_makes_anew_what_its_copies_have_in_common(tmp_path: Path) -> None:
    (tmp_path / "var/lib/builder").mkdir(parents=True)
    (tmp_path / "var/lib/builder/held").touch()
    (tmp_path / "seed").touch()
    said = hold(tmp_path)
    new = (tmp_path / "etc/machine-id").read_text().strip()
    assert re.fullmatch(r"[0-9a-f]{32}", new)
    assert new != OLD
    assert [path.name for path in (tmp_path / "var/log/journal").iterdir()] == [new]
    assert not (tmp_path / "var/lib/systemd/random-seed").exists()
    assert not (tmp_path / "var/lib/builder/held").exists()
    assert "systemctl --no-block try-restart systemd-journald.service chronyd.service" in said


def test_a_machine_that_is_to_be_held_waits_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "marked").touch()
    # It is told to wait, and its seed comes when it has said that it waits.
    said = hold(tmp_path, f'report() {{ echo "$*"; touch {tmp_path}/seed; }}\nhold')
    assert said.startswith("HELD\n")
    assert (tmp_path / "etc/machine-id").read_text() != f"{OLD}\n"


@pytest.mark.parametrize("fault", ["reseed() { return 1; }", "dd() { return 1; }"])
def test_no_key_is_made_of_random_numbers_that_others_have(tmp_path: Path, fault: str) -> None:
    (tmp_path / "marked").touch()
    copied = f'uname() {{ echo 6.1; }}\nreport() {{ [ "$*" != HELD ] || touch {tmp_path}/seed; }}'
    assert hold(tmp_path, f"{copied}\n{fault}\nhold").endswith("reboot -f\n")
    # Then it boots: this is not the machine any more that was saved, and its kernel has begun anew.
    (tmp_path / "marked").unlink()
    assert "reboot" not in hold(tmp_path, f"{fault}\nuname() {{ echo 6.1; }}\nhold")
    assert not (tmp_path / "var/lib/builder/held").exists()


@pytest.mark.parametrize(
    ("release", "mixed"),
    [("3.10.0-1160.el7.x86_64", True), ("4.7.0", True), ("4.18.0-553.el8_10.x86_64", False), ("6.1.0-57-amd64", False)],
)
def test_later_kernels_are_told_to_take_up_new_randomness(tmp_path: Path, release: str, mixed: bool) -> None:
    said = hold(tmp_path, f"uname() {{ echo {release}; }}\nis_mixed_by_writing && echo mixed || echo told")
    assert said == ("mixed\n" if mixed else "told\n")


def test_the_kernel_is_asked_to_take_up_new_randomness(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(bytes(1024))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/urandom").touch()
    tail = f"find_python\n{_function('reseed')}\nreseed < {tmp_path}/bytes 2>&1"
    said = hold(tmp_path, tail.replace("/dev/", f"{tmp_path}/dev/"))
    # A plain file knows no ioctl; all that comes before it went well.
    assert "Inappropriate ioctl for device" in said


@pytest.mark.parametrize("found", [True, False], ids=["seed", "no seed"])
def test_what_cloud_init_made_is_told_to_the_host(tmp_path: Path, found: bool) -> None:
    for name in ("etc/ssh", "dev", "run/cloud-init", "var/lib/cloud/data"):
        (tmp_path / name).mkdir(parents=True)
    key = tmp_path / "etc/ssh/ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-f", key, "-N", "", "-C", ""], check=True)
    (tmp_path / "var/lib/cloud/data/instance-id").write_text("i-9\n")
    if not found:
        (tmp_path / "run/cloud-init/disabled").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    script = (TEMPLATES / "snippets" / "tell-identity.sh").read_text()
    # A port keeps nothing of what was written before; a file would.
    assert run(tmp_path, script.replace("> /dev/ttyS1", ">> /dev/ttyS1")) == ""
    told = report.read_report(tmp_path / "dev/ttyS1")
    fingerprint = subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True, text=True).stdout
    assert told.host_keys == (fingerprint.split()[1],)
    assert told.ready == ("i-9" if found else "none",)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def _function(name: str) -> str:
    text = (TEMPLATES / "snippets" / "first-boot.sh").read_text()
    return text[text.index(f"\n{name}() {{") :].partition("\n}\n")[0] + "\n}"


def test_two_cards_of_both_families(guest: Path) -> None:
    own = f"{FIRST} 192.0.2.5/24 2001:db8::5/64 via=192.0.2.1 via=fe80::1 dns=192.0.2.53 dns=2001:db8::53"
    assert set_cards(guest, own, f"{SECOND} dhcp fd00::5/64 no-default4 no-default6 no-dns") == "ADDRESS 192.0.2.5\n"
    if (guest / "etc/rc.d").exists():
        assert (guest / IFCFG).read_text().splitlines()[1:] == [
            *("DEVICE=eth0", "NAME=eth0", "ONBOOT=yes", "BOOTPROTO=none"),
            *("IPADDR=192.0.2.5", "PREFIX=24", "GATEWAY=192.0.2.1"),
            *("IPV6INIT=yes", "IPV6_AUTOCONF=no", "IPV6ADDR=2001:db8::5/64", "IPV6_DEFAULTGW=fe80::1%eth0"),
            *("DNS1=192.0.2.53", "DNS2=2001:db8::53"),
        ]
        assert (guest / IFCFG).with_name("ifcfg-eth1").read_text().splitlines()[1:] == [
            *("DEVICE=eth1", "NAME=eth1", "ONBOOT=yes", "BOOTPROTO=dhcp", "DEFROUTE=no"),
            *("IPV6INIT=yes", "IPV6_AUTOCONF=no", "IPV6ADDR=fd00::5/64", "IPV6_DEFROUTE=no", "PEERDNS=no"),
        ]
        return
    assert not (guest / IFCFG).exists()
    first, second = (keyfile((guest / KEYFILE).with_name(f"eth{number}.nmconnection")) for number in (0, 1))
    assert (first["connection"]["interface-name"], second["connection"]["interface-name"]) == ("eth0", "eth1")
    assert dict(first["ipv4"]) == {"method": "manual", "address1": "192.0.2.5/24,192.0.2.1", "dns": "192.0.2.53;"}
    assert dict(first["ipv6"]) == {"method": "manual", "address1": "2001:db8::5/64,fe80::1", "dns": "2001:db8::53;"}
    quiet = {"never-default": "true", "ignore-auto-dns": "true"}
    assert dict(second["ipv4"]) == {"method": "auto", **quiet}
    assert dict(second["ipv6"]) == {"method": "manual", "address1": "fd00::5/64", **quiet}


def test_a_card_without_ipv4_asks_nobody_for_it(guest: Path) -> None:
    assert set_cards(guest, f"{SECOND} fd00::5/64 via=fd00::1") == ""
    if (guest / "etc/rc.d").exists():
        lines = (guest / IFCFG).with_name("ifcfg-eth1").read_text().splitlines()
        assert lines[4:] == [
            *("BOOTPROTO=none", "IPV6INIT=yes", "IPV6_AUTOCONF=no", "IPV6ADDR=fd00::5/64", "IPV6_DEFAULTGW=fd00::1")
        ]
        return
    read = keyfile((guest / KEYFILE).with_name("eth1.nmconnection"))
    assert dict(read["ipv4"]) == {"method": "disabled"}
    assert dict(read["ipv6"]) == {"method": "manual", "address1": "fd00::5/64,fd00::1"}


@pytest.mark.parametrize(
    "words",
    [
        "192.0.2.5",
        "192.0.2.5/24 via=fe80::1%eth0",
        "fd00::5",
        "fd00::5/64 $(reboot)",
        "dhcp *",
        "static",
        "dns=one dhcp",
    ],
)
def test_nothing_but_known_words_sets_up_a_card(tmp_path: Path, words: str) -> None:
    (tmp_path / KEYFILE).parent.mkdir(parents=True)
    said = set_cards(tmp_path, f"{FIRST} {words}", f"{SECOND} dhcp")
    assert said.splitlines()[0].startswith("builder: address '")
    assert [path.name for path in (tmp_path / KEYFILE).parent.iterdir()] == ["eth1.nmconnection"]


def test_a_card_that_is_not_there_is_told_and_the_others_are_set_up(tmp_path: Path) -> None:
    (tmp_path / KEYFILE).parent.mkdir(parents=True)
    said = set_cards(tmp_path, "52:54:00:00:00:09 dhcp", f"{SECOND} dhcp")
    assert said.splitlines()[0] == "builder: there is no card 52:54:00:00:00:09"
    assert [path.name for path in (tmp_path / KEYFILE).parent.iterdir()] == ["eth1.nmconnection"]


def test_what_was_written_for_a_card_that_is_gone_goes_too(guest: Path) -> None:
    set_cards(guest, f"{FIRST} dhcp", f"{SECOND} dhcp no-default4")
    lines = (guest / "var/lib/builder/network").read_text().splitlines()
    assert lines == [f"card={FIRST} dhcp", f"card={SECOND} dhcp no-default4"]
    folder = (guest / (IFCFG if (guest / "etc/rc.d").exists() else KEYFILE)).parent
    assert len(list(folder.iterdir())) == 2
    (folder / "ifcfg-lo").touch()
    set_cards(guest, f"{SECOND} 192.0.2.5/24")
    assert {path.name.removesuffix(".nmconnection") for path in folder.iterdir()} <= {"ifcfg-lo", "ifcfg-eth1", "eth1"}
    assert (guest / "var/lib/builder/network").read_text() == f"card={SECOND} 192.0.2.5/24\n"


def boot(guest: Path, *lines: str) -> list[str]:
    """Run the unit as at a boot with this seed, and return which parts of it had something to do."""
    for name in ("run", "var/lib/builder"):
        (guest / name).mkdir(parents=True, exist_ok=True)
    (guest / "run" / "builder.conf").write_text("".join(f"{line}\n" for line in lines))
    text = (TEMPLATES / "snippets" / "first-boot.sh").read_text()
    parts = ("forget_host_keys", "set_hostname", "set_keys", "grow_root", "make_host_key", "tell_fingerprints")
    stubs = "".join(f"{part}() {{ echo {part}; }}\n" for part in parts) + "find_seed() { return 1; }\n"
    functions, _, rest = text.partition("\n# first-boot --hold")
    return run(
        guest, f"{functions}\n{CARDS}\n{stubs}", rest[rest.index("\ninstance=\n") :].replace("/run/", f"{guest}/run/")
    ).splitlines()


def test_cards_that_were_changed_while_it_was_off_are_set_up_and_nothing_else(guest: Path) -> None:
    scripts = (guest / "etc/rc.d").exists()
    folder = (guest / (IFCFG if scripts else KEYFILE)).parent
    every = ["make_host_key", "grow_root", "tell_fingerprints", "READY i-1"]
    first = boot(guest, "instance-id=i-1", "hostname=a")
    assert first == ["forget_host_keys", "set_hostname", "set_keys", *every]
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert boot(guest, "instance-id=i-1", "hostname=b") == every
    two = ("instance-id=i-1", "hostname=a", f"card={FIRST} 192.0.2.5/24", f"card={SECOND} dhcp no-default4")
    assert boot(guest, *two) == ["ADDRESS 192.0.2.5", *every]
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(after) == 2
    assert "192.0.2.5" in after["ifcfg-eth0" if scripts else "eth0.nmconnection"]
    # What somebody changes in the guest stays.
    changed = folder / ("ifcfg-eth1" if scripts else "eth1.nmconnection")
    changed.write_text("mine")
    assert boot(guest, *two) == every
    assert changed.read_text() == "mine"
    assert boot(guest, *two[:3]) == ["ADDRESS 192.0.2.5", *every]
    assert not changed.exists()
    assert before != after


def test_a_seed_that_somebody_wrote_by_hand(guest: Path) -> None:
    """Blanks, empty lines first, no end of the last line: what stands there counts, and a boot changes nothing more."""
    lines = (
        "ssh-key=",
        "instance-id=i-1 ",
        "card=",
        f"card= {FIRST}\tdhcp ",
        "  # a note",
        f"card={SECOND} dhcp no-dns",
    )
    assert boot(guest, *lines)[:3] == ["forget_host_keys", "set_hostname", "set_keys"]
    folder = (guest / (IFCFG if (guest / "etc/rc.d").exists() else KEYFILE)).parent
    assert {path.name for path in folder.iterdir()} >= (
        {"ifcfg-eth0", "ifcfg-eth1"} if (guest / "etc/rc.d").exists() else {"eth0.nmconnection", "eth1.nmconnection"}
    )
    assert "set_keys" not in boot(guest, *lines)


def test_an_address_alone_needs_neither_gateway_nor_servers(tmp_path: Path) -> None:
    (tmp_path / KEYFILE).parent.mkdir(parents=True)
    set_address(tmp_path, "address=10.1.2.3/24\n")
    assert dict(keyfile(tmp_path / KEYFILE)["ipv4"]) == {"method": "manual", "address1": "10.1.2.3/24"}


def test_nothing_but_an_address_gets_into_a_keyfile(tmp_path: Path) -> None:
    (tmp_path / KEYFILE).parent.mkdir(parents=True)
    set_address(tmp_path, "address=10.1.2.3/24\ngateway=10.1.2.1;method=auto\n")
    assert not (tmp_path / KEYFILE).exists()


@pytest.mark.parametrize("script", ["seal", "generalise"])
def test_what_makes_a_machine_this_machine_goes_from_either_kind_of_file(guest: Path, script: str) -> None:
    for name in ("etc/machine-id", "var/cache/yum/x", "var/cache/dnf/y", "var/lib/NetworkManager/secret_key"):
        (guest / name).parent.mkdir(parents=True, exist_ok=True)
        (guest / name).write_text("x")
    for name in ("root", "home", "tmp", "var/tmp", "var/log"):
        (guest / name).mkdir(exist_ok=True)
    path = TEMPLATES / "snippets" / "seal.sh.j2" if script == "seal" else STAGES / "generalise.sh"
    run(guest, path.read_text())
    left = "".join((guest / name).read_text() for name in (IFCFG, KEYFILE) if (guest / name).exists())
    assert "eth0" in left
    assert not re.search(r"^(HWADDR|UUID|uuid|mac-address)=", left, re.M)
    assert (guest / "etc/machine-id").read_text() == ""
    assert not list((guest / "var/cache/yum").iterdir()) + list((guest / "var/cache/dnf").iterdir())
    assert not (guest / "var/lib/NetworkManager/secret_key").exists()
    if (guest / KEYFILE).exists():
        assert stat.S_IMODE((guest / KEYFILE).stat().st_mode) == 0o600


def test_host_keys_are_made_after_the_unit_in_every_release() -> None:
    unit = (TEMPLATES / "snippets" / "first-boot.sh.j2").read_text()
    before = set(" ".join(re.findall(r"^Before=(.*)$", unit, re.M)).split())
    assert {"sshd-keygen.service", "sshd-keygen.target", "sshd.service"} <= before
    assert {f"sshd-keygen@{kind}.service" for kind in ("rsa", "ecdsa", "ed25519")} <= before


@pytest.mark.parametrize("template", ["centos7-minimal.ks.j2", "el-minimal.ks.j2"])
def test_every_templates_script_is_posix_shell_and_reports_last(template: str) -> None:
    text = render.render(render.collect(template, [TEMPLATES]), template, {**VARS, **OWN})
    post = section(text, "%post")
    done = subprocess.run(["dash", "-n"], input=post, text=True, capture_output=True, check=False)
    assert done.stderr == ""
    lines = [line for line in post.splitlines() if line and not line.startswith("#")]
    assert (lines[0], lines[-1]) == ("set -eu", 'echo "BUILDER INSTALLED 0123abcd" > /dev/ttyS1')
    # The loader's own entries (BLS, from EL8 on) are left alone.
    assert not re.search(r"loader/entries|grub2-mkconfig|grubby", post)
