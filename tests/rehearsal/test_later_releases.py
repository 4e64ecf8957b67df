"""What the rehearsal's installer decides otherwise from Enterprise Linux 8 on, case by case; nothing is run.

Each source is a file of Anaconda's branches rhel-8, rhel-9 and rhel-10, below pyanaconda/, where no other is named.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from builder.rehearsal import tree
from builder.rehearsal.installer import boot, bootargs, config, hub, parse, selection
from builder.rehearsal.installer.disk import decide
from builder.rehearsal.installer.disk.decide import Machine
from builder.rehearsal.installer.disk.disks import Disk
from builder.rehearsal.installer.release import identity, words
from builder.rehearsal.installer.release.facts import EL7, RELEASES, Product, product
from builder.rehearsal.shapes import SHAPES, facts
from builder.releases import Name

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "releases"),
    [
        # pykickstart's handlers.
        ("install\n", ("el9", "el10", "fedora")),
        ("auth --enableshadow\n", ("el10", "fedora")),
        ("timezone UTC --isUtc\n", ("el10",)),
        ("rootpw --plaintext x --allow-ssh\n", ("el7", "el8")),
        ("timesource --ntp-server=x\n", ("el7", "el8")),
        # kickstart.py of rhel-10: setupSections.
        ("%anaconda\n%end\n", ("el10", "fedora")),
        ("bootloader --location=mbr superfluous\n", ("el8", "el9", "el10", "fedora")),
    ],
)
def test_what_a_release_refuses(text: str, releases: tuple[str, ...]) -> None:
    refused = []
    for name, release in RELEASES.items():
        try:
            parse.read(text, release)
        except parse.KickstartError:
            refused.append(name)
    assert tuple(refused) == releases


def test_options_without_inst_are_passed_over_from_el9_on() -> None:
    """rhel-9, dracut/parse-anaconda-options.sh."""
    line = "ks=cdrom:/a cmdline inst.ks=hd:sda1:/b"
    for name, release in RELEASES.items():
        args = bootargs.parse(line, bare=release.bare_options)
        old = name in ("el7", "el8")
        assert (args.kickstart, args.option("cmdline")) == (("cdrom:/a", True) if old else ("hd:sda1:/b", False))


def test_the_console_is_preserved_from_el9_on_and_once() -> None:
    """data/anaconda.conf, preserved_arguments."""
    args = bootargs.parse("console=tty0 console=ttyS0,115200 net.ifnames=0 rd.net.dns=9.9.9.9")
    assert args.preserved() == ["net.ifnames=0"]
    line = boot.kernel_line(args, "audit=0", (), RELEASES["el9"].preserved)
    assert line == "audit=0 console=ttyS0,115200 net.ifnames=0 rd.net.dns=9.9.9.9"


KEYFILES = [
    ("--bootproto=dhcp --onboot=on", {"method": "auto"}, {}),
    ("--bootproto=dhcp --onboot=off", {"method": "auto"}, {"autoconnect": "false"}),
    ("--bootproto=dhcp --nodns", {"method": "auto", "ignore-auto-dns": "true"}, {}),
    (
        "--bootproto=static --ip=10.0.0.2 --netmask=255.255.240.0 --gateway=10.0.0.1 --nameserver=1.1.1.1,9.9.9.9",
        {"method": "manual", "address1": "10.0.0.2/20,10.0.0.1", "dns": "1.1.1.1;9.9.9.9;"},
        {},
    ),
]


@pytest.mark.parametrize(("line", "ipv4", "connection"), KEYFILES)
def test_keyfiles(line: str, ipv4: dict[str, str], connection: dict[str, str]) -> None:
    """nm-settings-keyfile(5); tests/host shows one to NetworkManager itself."""
    data = parse.read(f"network --device=eth0 {line}\n", RELEASES["el9"]).network.network[0]
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(config.keyfile(data, "eth0", identity="x"))
    assert dict(read["ipv4"]) == ipv4
    assert dict(read["connection"]) == {
        "id": "eth0",
        "uuid": "x",
        "type": "ethernet",
        "interface-name": "eth0",
        **connection,
    }


@pytest.mark.parametrize(("name", "esp", "boot_size"), [("el8", 200, 1024), ("el9", 200, 1024), ("el10", 500, 2048)])
def test_sizes_of_what_the_firmware_and_the_boot_loader_need(name: str, esp: int, boot_size: int) -> None:
    """modules/storage/platform.py."""
    ks = parse.read("zerombr\nautopart --type=plain\n", RELEASES[name])
    made = decide.layout(ks, [Disk("sda", 20480)], Machine(efi=True, memory=2048, gpt=False))
    sizes = {part.request.mount: part.size for part in made.partitions}
    assert (sizes["/boot/efi"], sizes["/boot"]) == (esp, boot_size)


def test_time_sources_are_named_by_either_command() -> None:
    assert config.ntp_servers(parse.read("timezone UTC --ntpservers=a,b\n")) == ["a", "b"]
    text = "timezone UTC\ntimesource --ntp-server=a\ntimesource --ntp-server=b\n"
    assert config.ntp_servers(parse.read(text, RELEASES["el10"])) == ["a", "b"]


def test_authselect_needs_its_package() -> None:
    """modules/security/installation.py."""
    ks = parse.read("authselect select minimal\n", RELEASES["el9"])
    config.authentication(ks, ("authselect",))
    with pytest.raises(parse.KickstartError, match=r"/usr/bin/authselect is missing\. Cannot setup"):
        config.authentication(ks, ())


def test_the_hub_lists_items_with_their_state() -> None:
    """ui/tui/hubs: two columns, the state below each."""
    rows = hub._rows(words.EL9, {"Installation Destination": "Kickstart insufficient"})
    at = next(number for number, row in enumerate(rows) if "Installation Destination" in row)
    assert rows[at].startswith(" 5) [!] Installation Destination")
    assert "6) [x] Kdump" in rows[at]
    assert rows[at + 1].strip().startswith("(Kickstart insufficient)")
    assert [row for row in hub._rows(words.EL7, {}) if "(" in row] == []


@pytest.mark.parametrize("name", SHAPES)
def test_the_new_system_bears_the_name_of_its_product(name: Name) -> None:
    found = product(facts(name))
    assert isinstance(found, Product)
    text = dict(line.split("=", 1) for line in identity.os_release(found).splitlines())
    assert text["ID"].strip('"') == SHAPES[name].os_id
    assert text["VERSION_ID"].strip('"') == SHAPES[name].version
    assert found.system.endswith(")")
    assert "builder rehearsal" in text["PRETTY_NAME"]
    assert (found.release is EL7) is (name == "el7")


@pytest.mark.parametrize("name", SHAPES)
def test_every_table_has_what_the_templates_ask_for(name: Name) -> None:
    table = selection.load(tree.HERE / SHAPES[name].table)
    environment = "minimal" if name == "el7" else "minimal-environment"
    asked = ["chrony", "parted", "xfsprogs", "dracut-config-generic"]
    found = selection.choose(table, packages=asked, groups=["core"], excluded=["iwl*firmware"], environment=environment)
    assert (found.missing, found.missing_groups) == ((), ())
    assert set(table.present) | set(table.debs) <= table.names
    assert not [one for one in found.chosen if one.startswith("iwl")]


def test_the_stand_in_for_networkmanager_is_a_program() -> None:
    for folder in ("base", "el7", "el8"):
        for path in (tree.HERE / "target" / folder).rglob("*"):
            place = str(path.relative_to(tree.HERE / "target"))
            if path.is_file() and path.read_bytes().startswith(b"#!"):
                assert tree._mode(place) == 0o755, place
            elif path.is_file():
                assert tree._mode(place) == 0o644, place
    assert Path(tree.HERE / "target/el8/usr/lib/systemd/system/NetworkManager.service").is_file()
