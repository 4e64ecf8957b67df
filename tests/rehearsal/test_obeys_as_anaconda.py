"""What real kickstarts ask for, decided as Anaconda 7 does, case by case; nothing is run.

Each source is Anaconda's rhel7-branch, 21.48.22.159, below pyanaconda/, where no other is named.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.rehearsal import tree
from builder.rehearsal.installer import config, debs, parse, scripts, selection, users
from builder.rehearsal.installer.disk import decide, plan
from builder.rehearsal.installer.disk.decide import Machine
from builder.rehearsal.installer.disk.disks import Disk
from builder.rehearsal.installer.disk.layout import Layout

DISK = Disk("sda", 8192)
TABLE = selection.load(tree.HERE / "table.json")


def layout(text: str, memory: int = 1024) -> Layout:
    return decide.layout(parse.read(f"zerombr\n{text}"), [DISK], Machine(efi=False, memory=memory, gpt=False))


@pytest.mark.parametrize(
    ("line", "names", "groups", "expected"),
    [
        # users.py, createUser: the own group is made with the user, so it is not there to be looked up.
        ("--name=a --groups=a,wheel", (), ("wheel",), [["groupadd", "a"], "--groups wheel a"]),
        ("--name=a --groups=nosuch,wheel", (), ("wheel",), [["groupadd", "a"], "--groups wheel a"]),
        ("--name=a --groups=nosuch", (), ("wheel",), [["groupadd", "a"], "--gid a a"]),
        ("--name=a --gid=5005 --uid=5004", (), (), [["groupadd", "--gid", "5005", "a"], "--gid a --uid 5004 a"]),
        ("--name=root --plaintext --password=x", ("root",), (), []),
        # addGroup fails: there is no second one.
        ("--name=a", (), ("a",), ["--gid a a"]),
        ("--name=a --shell=/bin/sh --homedir=/srv/a", (), (), [["groupadd", "a"], "--home-dir /srv/a a"]),
    ],
)
def test_users(line: str, names: tuple[str, ...], groups: tuple[str, ...], expected: list[list[str] | str]) -> None:
    made = users.plan(parse.read(f"user {line}\n").user.userList[0], set(names), set(groups))
    assert len(made) == len(expected)
    for words, wanted in zip(made, expected, strict=True):
        assert words == wanted if isinstance(wanted, list) else " ".join(words).endswith(wanted)


@pytest.mark.parametrize(
    ("line", "algorithm"),
    [("", "SHA512"), ("auth --passalgo=sha256\n", "SHA256"), ("authconfig --enableshadow --enablemd5\n", "MD5")],
)
def test_plain_passwords_are_hashed_as_auth_says(line: str, algorithm: str) -> None:
    assert users.algorithm(parse.read(line).authconfig.authconfig) == algorithm


def test_a_timer_is_no_service() -> None:
    """kickstart.py, Services."""
    assert config.service("fstrim.timer") == "fstrim.timer.service"
    assert config.service("sshd.service") == config.service("sshd") == "sshd.service"


@pytest.mark.parametrize(
    ("line", "chosen", "said"),
    [
        ("firewall --enabled --ssh", (), "firewall-offline-cmd is missing. Cannot setup firewall."),
        ("firewall --service=http", (), "firewall-offline-cmd is missing."),
        ("firewall --disabled", (), None),
        ("firewall --use-system-defaults", (), None),
        ("firewall --enabled", ("firewalld",), None),
        ("auth --enableshadow", (), "authconfig is missing. Cannot setup authentication."),
        ("authconfig --enableshadow", ("authconfig",), None),
    ],
)
def test_a_command_without_its_program(line: str, chosen: tuple[str, ...], said: str | None) -> None:
    """kickstart.py, Firewall.execute and Authconfig.execute."""
    ks = parse.read(f"{line}\n")
    check = config.firewall if line.startswith("firewall") else config.authentication
    if said is None:
        check(ks, chosen)
        return
    with pytest.raises(parse.KickstartError, match=said):
        check(ks, chosen)


@pytest.mark.parametrize(
    ("text", "target"),
    [("", "multi-user"), ("xconfig --startxonboot\n", "graphical"), ("xconfig --startxonboot\nskipx\n", "multi-user")],
)
def test_what_is_started_at_boot(text: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """desktop.py; install.py: xconfig is carried out before skipx."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    config.desktop(parse.read(text))
    assert (tmp_path / "etc/systemd/system/default.target").readlink() == Path(f"/lib/systemd/system/{target}.target")


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("--device=bond0 --bondslaves=eth0,eth1", "eth0"),
        ("--device=team0 --teamslaves=\"eth1'{}'\"", "eth1"),
        ("--device=br0 --bridgeslaves=eth0", "eth0"),
        ("--device=eth0 --vlanid=77", None),
        ("--device=eth0", "eth0"),
    ],
)
def test_the_interface_of_a_network_line(line: str, device: str | None) -> None:
    assert config.plain_device(parse.read(f"network --bootproto=dhcp {line}\n").network.network[0]) == device


@pytest.mark.parametrize("name", ["Core", "CORE", "core"])
def test_groups_are_known_in_any_case(name: str) -> None:
    """yum 3.4.3, comps.py."""
    found = selection.choose(TABLE, packages=[], groups=[name], excluded=[], core=False, environment="Minimal")
    assert found.missing_groups == ()
    assert "openssh-server" in found.chosen
    assert (
        "openssh-server"
        not in selection.choose(
            TABLE, packages=[], groups=["core"], excluded=[], excluded_groups=[name], core=False
        ).chosen
    )


@pytest.mark.parametrize(
    ("memory", "disk", "hibernation", "size"),
    [
        (1024, 8192, False, 819),
        (1024, 99999, False, 2048),
        (4096, 99999, False, 4096),
        (16384, 99999, False, 8192),
        (65536, 99999, False, 4096),
        (1024, 8192, True, 3072),
        (131072, 8192, True, 4096),
    ],
)
def test_recommended_swap(memory: int, disk: int, hibernation: bool, size: int) -> None:
    """blivet 0.61, devicelibs/swap.py: swapSuggestion."""
    assert plan.recommended_swap(memory, disk, hibernation=hibernation) == size
    option = "--hibernation" if hibernation else "--recommended --grow"
    made = decide.requests(
        parse.read(f"part swap {option}\n"), [Disk("sda", disk)], "msdos", Machine(efi=False, memory=memory, gpt=False)
    )
    assert [(one.size, one.grow) for one in made] == [(size, False)]


def test_a_mount_point_belongs_to_the_last_that_claims_it() -> None:
    """kickstart.py, PartitionData: the old one is destroyed."""
    made = layout("part / --fstype=ext4 --size=3500\npart / --fstype=xfs --size=2500\npart swap --size=300\n")
    found = [(part.request.mount, part.request.fstype, part.size) for part in made.partitions]
    assert found == [("/", "xfs", 2500), ("", "swap", 300)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("part /etc --size=300", "This mount point is invalid. The /etc directory must be on the / file system."),
        ("part /home --fstype=vfat --size=300", "The mount point /home must be on a linux file system."),
        ("part /srv --fstype=vfat --size=300", None),
    ],
)
def test_what_may_not_be_a_file_system_of_its_own(line: str, said: str | None) -> None:
    """storage_utils.py: verify_mountpoints_on_root, verify_mountpoints_on_linuxfs."""
    made = layout(f"part / --size=3000\npart swap --size=300\n{line}\n")
    assert plan.check(made, efi=False, memory=1024)[0] == ([said] if said else [])


def test_a_partition_has_the_size_and_the_options_that_it_is_given() -> None:
    made = layout('part / --size=3000 --mkfsoptions="-m 0" --fsoptions=noatime\npart /srv\npart /boot/efi --size=50\n')
    by_mount = {part.request.mount: part for part in made.partitions}
    assert (by_mount["/"].request.making, by_mount["/"].request.options) == ("-m 0", "noatime")
    assert by_mount["/srv"].size == 500  # blivet: PartitionDevice.defaultSize
    assert by_mount["/boot/efi"].request.fstype == "efi"


def test_words_that_7_9_does_not_look_at_are_no_fault() -> None:
    """pykickstart 1.99.66: many commands take what stands behind their options for nothing."""
    assert parse.read("bootloader --location=mbr superfluous\n").bootloader.location == "mbr"
    with pytest.raises(parse.KickstartError):
        parse.read("zerombr yes\n")


def test_scripts_for_a_failure_cannot_fail(tmp_path: Path) -> None:
    onerror = f"%onerror --erroronfail\ntouch {tmp_path}/ran\nexit 1\n%end\n"
    scripts.run_quietly(parse.read(f"{onerror}%traceback\ntouch {tmp_path}/too\n%end\n").scripts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ran", "too"]


def test_what_a_package_needs() -> None:
    field = "libaio1 (>= 0.3.93), dmsetup:any (>= 2:1.02), default-mta | mail-transport-agent, lsb-base"
    assert debs.depends(field) == ["libaio1", "dmsetup", "default-mta", "lsb-base"]
    assert debs.depends("") == []


def deb(folder: Path, name: str, **fields: str) -> None:
    """A package that holds nothing."""
    tree = folder / f"{name}-tree"
    (tree / "DEBIAN").mkdir(parents=True)
    lines = {"Package": name, "Version": "1", "Architecture": "all", "Maintainer": "a <a@b.c>", "Description": "x"}
    control = "".join(f"{key}: {value}\n" for key, value in (lines | fields).items())
    (tree / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", tree, folder / f"{name}_1_all.deb"], check=True, capture_output=True)


def test_a_package_that_goes_by_another_name_comes_along_unless_the_base_has_it(tmp_path: Path) -> None:
    deb(tmp_path, "app", Depends="virtual-api (>= 1), bash, missing")
    deb(tmp_path, "impl", Provides="virtual-api (= 1), another", Depends="deeper")
    deb(tmp_path, "deeper")
    deb(tmp_path, "shell", Provides="bash")
    assert [path.name for path in debs.needed("app", (tmp_path,))] == [
        "app_1_all.deb",
        "impl_1_all.deb",
        "deeper_1_all.deb",
    ]
