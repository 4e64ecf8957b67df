"""Pure parts of the installer, which touch no system: their decisions, case by case."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from builder.rehearsal import medium, tree
from builder.rehearsal.installer import boot, bootargs, config, faults, locate, log, parse, selection
from builder.rehearsal.installer.disk import decide, disks, plan
from builder.rehearsal.installer.disk.decide import Machine
from builder.rehearsal.installer.disk.disks import Disk
from builder.rehearsal.installer.disk.layout import Request, StorageError

SYSTEM = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_BUILDER-SYSTEM"
A = Disk("sda", 8192, (SYSTEM, "/dev/disk/by-path/pci-0"), "", False, ())
B = Disk("sdb", 4096, ("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_OTHER",), "dos", True, ("LABEL=DATA",))
TABLE = selection.load(tree.HERE / "table.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hd:LABEL=BUILDER_KS:/ks.cfg", locate.Location("hd", "LABEL=BUILDER_KS", "/ks.cfg")),
        (r"hd:LABEL=CentOS\x207\x20x86_64:/ks.cfg", locate.Location("hd", r"LABEL=CentOS\x207\x20x86_64", "/ks.cfg")),
        ("hd:UUID=12-34:/a/b.ks", locate.Location("hd", "UUID=12-34", "/a/b.ks")),
        ("hd:sda1:/ks.cfg", locate.Location("hd", "sda1", "/ks.cfg")),
        ("hd:/dev/sda1", locate.Location("hd", "sda1", "/ks.cfg")),
        ("cdrom:/ks.cfg", locate.Location("cdrom", "", "/ks.cfg")),
        ("cdrom", locate.Location("cdrom", "", "/ks.cfg")),
        ("cdrom:/dev/sr1:/x.ks", locate.Location("cdrom", "sr1", "/x.ks")),
        ("file:/ks.cfg", locate.Location("file", "", "/ks.cfg")),
    ],
)
def test_kickstart_location(text: str, expected: locate.Location) -> None:
    assert locate.parse(text) == expected


@pytest.mark.parametrize("text", ["http://host.example/ks.cfg", "nfs:host.example:/ks.cfg", "nonsense"])
def test_a_location_that_needs_a_network_is_refused(text: str) -> None:
    with pytest.raises(locate.UnsupportedError):
        locate.parse(text)


@pytest.mark.parametrize("text", [r"CentOS\x207\x20x86_64", "CentOSx207x20x86_64", r"CentOS\\x207\\x20x86_64"])
def test_each_spelling_of_a_label_means_the_label(text: str) -> None:
    assert "CentOS 7 x86_64" in locate.labels(text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("inst.ks=cdrom:/a inst.ks=hd:sda1:/b", "hd:sda1:/b"),
        ("ks=cdrom:/a inst.ks=hd:sda1:/b", "cdrom:/a"),
        ("inst.ks=hd:sda1:/b ks=cdrom:/a", "cdrom:/a"),
        ("ks=cdrom:/a ks=cdrom:/c inst.ks=hd:sda1:/b", "cdrom:/c"),
        ("ks inst.ks=hd:sda1:/b", "nfs:auto"),
        ("ks=cdrom:/a ks", "nfs:auto"),
        ("ks= inst.ks=hd:sda1:/b", "hd:sda1:/b"),
        ("ks=cdrom:/a ks= inst.ks=hd:sda1:/b", "hd:sda1:/b"),
        ("inst.ks", "nfs:auto"),
        ("ksdevice=eth0 inst.ks.sendmac", None),
    ],
)
def test_any_ks_comes_before_every_inst_ks(line: str, expected: str | None) -> None:
    assert bootargs.parse(line).kickstart == expected


def test_the_last_console_wins() -> None:
    args = bootargs.parse("console=ttyS0,115200n8 console=tty0 inst.nosave=all_ks,logs")
    assert args.console == "tty0"
    assert args.nosave == {"input_ks", "output_ks", "logs"}
    assert args.patience == 180


def test_kernel_line_inherits_console_and_preserved_words() -> None:
    args = bootargs.parse(
        r"inst.stage2=hd:LABEL=a\x20b net.ifnames=0 biosdevname=0 quiet console=tty0 console=ttyS0,115200n8"
    )
    assert boot.kernel_line(args, "audit=0") == "audit=0 console=ttyS0,115200n8 net.ifnames=0 biosdevname=0"
    assert 'GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"' in boot.defaults(
        args, parse.read("bootloader --timeout=1\n")
    )


def test_kernel_line_on_a_screen_gets_rhgb() -> None:
    assert boot.kernel_line(bootargs.parse("net.ifnames=1"), "net.ifnames=0") == "net.ifnames=0 rhgb quiet"


def test_log_line() -> None:
    assert log.line("INFO", "packaging", "x: y", 3661.25) == "01:01:01,250 INFO packaging:x: y"


@pytest.mark.parametrize(
    ("specification", "names"),
    [
        ("sda", ["sda"]),
        ("/dev/sdb", ["sdb"]),
        ("disk/by-id/*BUILDER-SYSTEM*", ["sda"]),
        (SYSTEM.removeprefix("/dev/"), ["sda"]),
        ("disk/by-id/virtio-BUILDER-SYSTEM|disk/by-id/*_BUILDER-SYSTEM", ["sda"]),
        ("sdb|sd*", ["sdb", "sda"]),
        ("LABEL=DATA", ["sdb"]),
        ("disk/by-id/*NONE*", []),
        ("vda", []),
    ],
)
def test_disk_specifications_match_as_in_blivet(specification: str, names: list[str]) -> None:
    assert disks.matches(specification, [A, B]) == names


def test_growing_partitions_fill_the_disk_and_stop_at_their_maximum() -> None:
    wanted = [Request("/", "xfs", 1000, grow=True), Request("/srv", "ext4", 500, grow=True, maxsize=600)]
    made = plan.place(wanted, [A], table="msdos", boot="sda")
    sizes = {partition.request.mount: partition.size for partition in made.partitions}
    assert sizes == {"/": 8192 - plan.FIRST - 600, "/srv": 600}


def test_a_fifth_msdos_partition_is_logical() -> None:
    wanted = [Request(f"/{number}", "xfs", 100) for number in range(5)]
    made = plan.place(wanted, [A], table="msdos", boot="sda")
    assert [partition.number for partition in made.partitions] == [1, 2, 3, 5, 6]
    script = plan.script(made, "sda")
    assert "4 : start=301MiB, type=5" in script
    assert script.count("bootable") == 1
    ends = [(partition.start, partition.start + partition.size) for partition in made.partitions]
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ends))


def test_too_large_does_not_fit() -> None:
    with pytest.raises(StorageError, match=plan.NO_SPACE):
        plan.place([Request("/", "xfs", 90000)], [A], table="msdos", boot="sda")


@pytest.mark.parametrize(
    ("table", "efi", "kinds"), [("msdos", False, []), ("gpt", False, ["biosboot"]), ("gpt", True, ["efi"])]
)
def test_what_the_firmware_needs(table: str, efi: bool, kinds: list[str]) -> None:
    assert [request.fstype for request in plan.stage1(table, efi=efi)] == kinds


def test_gpt_on_bios_without_biosboot_is_an_error() -> None:
    made = plan.place([Request("/", "xfs", 1000)], [A], table="gpt", boot="sda")
    errors, warnings = plan.check(made, efi=False, memory=1024)
    assert "biosboot" in errors[0]
    assert "swap" in warnings[0]


def test_automatic_layout_has_home_on_large_disks_only() -> None:
    ks = parse.read("autopart --type=plain\n")
    machine = Machine(efi=False, memory=1024, gpt=False)
    for size, there in ((50 << 10, True), ((50 << 10) - 1, False)):
        asked = decide.requests(ks, [Disk("sda", size)], "msdos", machine)
        assert ("/home" in [one.mount for one in asked]) is there


def _choose(**changes: object) -> selection.Selection:
    words: dict[str, object] = {"packages": [], "groups": [], "excluded": [], **changes}
    return selection.choose(TABLE, **words)  # type: ignore[arg-type]


def test_core_comes_unless_nocore() -> None:
    assert "openssh-server" in _choose().chosen
    assert "openssh-server" not in _choose(core=False).chosen
    assert "kernel" in _choose(core=False).chosen


def test_exclusions_are_patterns_and_unknown_ones_are_ignored() -> None:
    chosen = _choose(excluded=["iwl*firmware", "no-such-name", "postfix"]).chosen
    assert not [name for name in chosen if name.startswith("iwl")]
    assert "postfix" not in chosen


def test_unknown_names_are_missing() -> None:
    found = _choose(packages=["tree", "no-such-name"], groups=["no-such-group"], environment="minimal")
    assert found.missing == ("no-such-name",)
    assert found.missing_groups == ("no-such-group",)
    assert "tree" in found.chosen


def test_what_anaconda_adds_yields_to_an_exclusion() -> None:
    assert "chrony" in _choose(required=["chrony"]).chosen
    assert "chrony" not in _choose(required=["chrony"], excluded=["chrony"]).chosen


def test_every_name_of_a_minimal_kickstart_is_known() -> None:
    names = [
        "kernel",
        "openssh-server",
        "chrony",
        "parted",
        "sudo",
        "NetworkManager",
        "firewalld",
        "kexec-tools",
        "dracut-config-generic",
    ]
    assert not _choose(packages=names, groups=["core"], environment="minimal").missing


BAD = [
    ("text\nfrobnicate now\n", "Unknown command: frobnicate", 2),
    ("%packages\n@core\n", "Section %packages does not end with %end.", 2),
    ("text\nraid / --device=0\n", "the rehearsal cannot carry out this command: raid: it makes no RAID arrays", 2),
    ("text\n%anaconda\nrootpw x\n%end\n", "Unknown command: rootpw", 2),
    ("bootloader --location=partition\n", "GRUB2 does not support installation to a partition.", 1),
    ("bootloader --iscrypted --password=x\n", "GRUB2 encrypted password must be in grub.pbkdf2 format.", 1),
]


@pytest.mark.parametrize(("text", "words", "line"), BAD)
def test_bad_kickstart_says_what_and_where(text: str, words: str, line: int) -> None:
    with pytest.raises(parse.KickstartError) as caught:
        parse.read(text)
    assert words in str(caught.value)
    assert f"The following problem occurred on line {line} of the kickstart file:" in str(caught.value)


def test_a_line_with_a_hostname_alone_configures_no_interface() -> None:
    ks = parse.read(
        "network --bootproto=static --device=eth0 --ip=10.0.0.2 --netmask=255.0.0.0\nnetwork --hostname=a.b\n"
    )
    assert [config.hostname_only(data) for data in ks.network.network] == [False, True]


def test_ifcfg_of_a_static_address() -> None:
    ks = parse.read(
        "network --bootproto=static --device=eth0 --ip=10.0.0.2 --netmask=255.255.240.0 --gateway=10.0.0.1\n"
    )
    text = config.ifcfg(ks.network.network[0], "eth0", identity="x")
    for line in ('BOOTPROTO="none"', 'IPADDR="10.0.0.2"', 'PREFIX="20"', 'GATEWAY="10.0.0.1"', 'ONBOOT="yes"'):
        assert line in text.splitlines()


def test_sshkey_and_kdump_are_read() -> None:
    ks = parse.read('sshkey --username=root "ssh-ed25519 AAAA me"\n%addon com_redhat_kdump --disable\n%end\n')
    assert ks.sshkey.sshUserList[0].key == "ssh-ed25519 AAAA me"
    assert ks.kdump is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("autopart --type=thinp\n", "autopart: it makes no thin pools"),
        ("autopart --encrypted\n", "autopart: it encrypts nothing"),
        ("part / --onpart=sda1\n", "part: it takes up nothing that is on a disk already"),
        ("part / --fstype=ntfs --size=9\n", "the rehearsal cannot make this: / ntfs"),
        ("logvol / --vgname=v --name=p --size=9 --thinpool\n", "logvol: it makes no thin pools"),
        ("upgrade\n", "upgrade: Anaconda 7 does not support it, and ends"),
    ],
)
def test_what_cannot_be_made_is_refused(text: str, said: str) -> None:
    with pytest.raises(parse.KickstartError, match=said):
        decide.refuse(parse.read(text))


def test_a_disk_that_is_not_there_is_a_bad_kickstart() -> None:
    ks = parse.read("text\nignoredisk --only-use=disk/by-id/*NONE*\n")
    with pytest.raises(parse.KickstartError, match="on line 2"):
        decide.usable(ks, [A, B])


def test_only_the_named_disk_is_used() -> None:
    ks = parse.read("ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM*\nclearpart --all\npart / --size=100 --grow\n")
    assert decide.usable(ks, [B, A]) == [A]


def test_a_used_disk_that_is_not_cleared_has_no_room() -> None:
    ks = parse.read("zerombr\npart / --size=100 --grow\n")
    with pytest.raises(StorageError, match=plan.NO_SPACE):
        decide.layout(ks, [B], Machine(efi=False, memory=1024, gpt=False))


def test_early_pass_finds_pre_only(tmp_path: Path) -> None:
    text = f"%include {tmp_path}/late\n%pre --erroronfail\necho hi\n%end\n%post\nexit 1\n%end\n"
    assert [script.script for script in parse.pre_scripts(text)] == ["echo hi\n"]


# As ours are: the parts that a fault is made from are there, once.
WHOLE = """text
cdrom
rootpw --iscrypted x
part / --fstype=xfs --size=2048 --grow
poweroff

%packages
@core
%end

%post --erroronfail
true
%end
"""


@pytest.mark.parametrize(
    ("fault", "gone", "new"),
    [
        ("kickstart-error", "", "frobnicate --all\n%packages"),
        ("missing-package", "", "%packages\nno-such-package\n@core"),
        ("missing-group", "", "%packages\n@no-such-group\n@core"),
        ("mandatory-item", "rootpw", "cdrom\npart"),
        ("partitioning", "--grow", "part / --fstype=xfs --size=9000000\n"),
        ("disk-too-small", "--grow", "part / --fstype=xfs --size=100\n"),
        ("pre-script", "", "exit 3\n%end\n%packages"),
        ("post-script", "", "exit 4\n%end\n%post --erroronfail\ntrue"),
        ("no-poweroff", "poweroff", "--grow\n\n%packages"),
        ("reboot", "poweroff", "--grow\nreboot\n"),
    ],
)
def test_a_fault_that_a_kickstart_causes(fault: str, gone: str, new: str) -> None:
    text = faults.edited(WHOLE, fault)
    assert new in text
    assert not gone or gone not in text


def test_what_no_kickstart_causes_leaves_it_alone() -> None:
    assert all(faults.edited(WHOLE, fault) == WHOLE for fault in faults.PLACES)


def test_faults_are_asked_for_by_name() -> None:
    assert faults.name(bootargs.parse("quiet")) is None
    assert faults.name(bootargs.parse("rehearsal.fault=hang")) == "hang"
    with pytest.raises(ValueError, match="known are kickstart-error missing-package"):
        faults.name(bootargs.parse("rehearsal.fault=nonsense"))


def test_a_flood_is_ten_mebibytes_whose_gaps_show() -> None:
    lines = faults.flood_lines()
    assert sum(len(line) + 1 for line in lines) == 10 << 20
    assert [int(line[:8]) for line in lines] == list(range(len(lines)))


def test_the_medium_is_known_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A full or read-only place, or a torn memory, costs a question to apt and nothing else."""
    (tmp_path / "file").touch()
    known = medium.inputs_digest(tmp_path / "cache")
    assert medium.inputs_digest(tmp_path / "file" / "below") == known
    (tmp_path / "cache" / "rehearsal-inputs.json").write_text("{")
    assert medium.inputs_digest(tmp_path / "cache") == known
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["rehearsal-inputs.json"]
