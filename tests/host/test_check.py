"""`host check` on this machine and on a chroot that has nothing, and checks of directories and files made here."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.host import check, check_libvirt, check_network, check_storage, config, sshd
from builder.host.finding import HostFinding
from tests.host.conftest import Cell

SOURCE = Path(__file__).parents[2]


def builder(*words: str, prefix: tuple[str, ...] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "builder", *words],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(SOURCE), "BUILDER_ARTIFACTS": "artifacts"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_this_machine(tmp_path: Path) -> None:
    done = builder("host", "check", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    rows = {row["name"]: row for row in told["rows"]}
    failed = [row for row in told["rows"] if row["state"] == "fail"]
    assert (done.returncode, told["ready"]) == ((3, False) if failed else (0, True))
    flags = {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split())
    assert rows["cpu"]["state"] == ("ok" if flags else "warn")
    assert rows["programs"]["state"] == rows["libvirt"]["state"] == "ok"
    assert set(rows) >= {"system", "/dev/kvm", "memory", "clock", "space", "access", "uplink", "bridge", "sshd"}
    assert all(row["why"] for row in told["rows"] if row["state"] in ("warn", "fail"))


def test_text_fits_80_columns(tmp_path: Path) -> None:
    done = builder("host", "check", cwd=tmp_path)
    long = [line for line in done.stdout.splitlines() if len(line) > 80 and "$ " not in line]
    assert long == []
    assert done.stdout.splitlines()[-1].startswith("a build can")


def test_without_programs_no_build_can_run(tmp_path: Path) -> None:
    hidden = ["--mount", "sh", "-c", 'mount -t tmpfs none /usr/sbin && exec "$@"', "sh"]
    done = builder("host", "check", "--json", prefix=("unshare", *hidden), cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert done.returncode == 3
    assert rows["libvirt"]["state"] == "fail"
    assert "libvirt-daemon-system" in rows["libvirt"]["fix"]
    assert rows["programs"]["found"] == "missing: fsck.fat (dosfstools)"


def test_nobody_cannot_pass_a_closed_directory(tmp_path: Path) -> None:
    shut = tmp_path / "shut" / "inner"
    shut.mkdir(parents=True)
    for folder in (shut, *[path for path in shut.parents if path.is_relative_to("/tmp/pytest-of-root")]):
        folder.chmod(0o755)
    shut.parent.chmod(0o700)
    row = check_storage.reach(shut, "nobody")
    closed = Path(row.fix.rpartition(" ")[2])
    assert (row.state, closed.stat().st_mode & 0o001) == ("fail", 0)
    assert shut.is_relative_to(closed)
    assert check_storage.reach(shut, pwd.getpwuid(0).pw_name).state == "ok"
    assert check_storage.reach(Path("/usr"), "nobody").state == "ok"


def test_a_daemon_that_hangs_is_a_finding(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        assert check_libvirt.ask(f"qemu+unix:///system?socket={tmp_path}/mute") is None


def test_a_refusal_is_a_finding() -> None:
    assert isinstance(check_libvirt.ask("qemu+unix:///system?socket=/nonexistent"), Exception)


def test_an_ordinary_user_is_told_to_ask_for_root(tmp_path: Path) -> None:
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"HOME={tmp_path}")
    tmp_path.chmod(0o777)
    done = builder("host", "check", "--json", prefix=words, cwd=Path("/var/tmp"))
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["groups"]["fix"].startswith("sudo usermod -aG")
    assert check.ROOTS.sub("sudo ", "modprobe a || modprobe b") == "sudo modprobe a || sudo modprobe b"
    assert check.ROOTS.sub("sudo ", "virsh list") == "virsh list"


CHAIN = {"family": "inet", "table": "filter", "name": "forward", "hook": "forward", "policy": "drop"}


def test_chains_that_drop_what_is_forwarded() -> None:
    chains = [
        CHAIN,
        {**CHAIN, "name": "input", "hook": "input"},
        {**CHAIN, "table": "open", "policy": "accept"},
        {**CHAIN, "family": "bridge"},
        {**CHAIN, "family": "ip", "name": "FORWARD"},
        {"family": "inet", "table": "filter", "name": "plain"},
    ]
    told = json.dumps({"nftables": [{"metainfo": {}}, *({"chain": chain} for chain in chains)]})
    assert check_network.nft_drops(told) == ["nft inet filter forward", "nft bridge filter forward"]
    assert check_network.nft_drops("") == []


def test_traps_of_the_firewall(equipped: tuple[Cell, Cell]) -> None:
    host, _ = equipped

    def row(name: str) -> dict[str, str]:
        told = json.loads(host.builder("host", "check", "--json").stdout)["rows"]
        return next(each for each in told if each["name"] == name)

    host.run("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0")
    assert row("firewall")["found"] == "no trap found"
    host.run("iptables", "-P", "FORWARD", "DROP")
    assert row("firewall")["state"] == "info"
    assert row("firewall")["found"] == "forwarded traffic is dropped by default (iptables FORWARD)"
    host.run("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=1")
    assert row("firewall")["state"] == "warn"
    host.run("sh", "-c", row("firewall")["fix"])
    assert row("firewall")["state"] == "info"
    host.run("iptables", "-P", "FORWARD", "ACCEPT")
    host.run("nft", "add", "table", "inet", "own")
    host.run("nft", "add", "chain", "inet", "own", "mine", "{ type filter hook forward priority 0; policy drop; }")
    assert row("firewall")["found"].endswith("(nft inet own mine)")

    host.run("sh", "-c", "ip link add virbr7 type bridge; echo 0 > /proc/sys/net/ipv4/ip_forward")
    assert row("forwarding")["state"] == "warn"
    host.run("sh", "-c", row("forwarding")["fix"])
    assert row("forwarding")["state"] == "ok"


def test_commands_are_never_broken() -> None:
    fix = "x" * 100
    assert list(check.lines([HostFinding("a", "warn", "b", "c", fix)]))[-1].endswith(f"$ {fix}")
    assert list(check.lines([HostFinding("a", "ok", "b", "c", fix)])) == ["ok    a            b"]


def test_sshd_takes_the_line_at_the_top(equipped: tuple[Cell, Cell], tmp_path: Path) -> None:
    host, _ = equipped
    key, file = tmp_path / "key", tmp_path / "sshd_config"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    for before in ("", "UseDNS yes\n", "Include /nowhere/*\n\nUseDNS yes\nMatch User x\n  X11Forwarding no\n"):
        file.write_text(sshd.without_dns(before))
        assert "usedns no\n" in host.run("/usr/sbin/sshd", "-T", "-f", file, "-h", key).stdout
        assert sshd.without_dns(file.read_text()) == file.read_text()


def test_settings_file_says_where_things_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "host"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    store, odd = tmp_path / "store", tmp_path / 'it"s \\ odd ü'
    store.mkdir()
    assert config.load() == config.Directories()
    config.host_file().parent.mkdir(parents=True)
    config.host_file().write_text(config.render(config.Directories(odd, store)))
    assert config.load() == config.Directories(odd, store)
    config.user_file().parent.mkdir(parents=True)
    config.user_file().write_text(config.render(config.Directories(media=tmp_path)))
    assert config.load() == config.Directories(tmp_path, store)
    store.rmdir()
    assert config.load().store is None


def test_settings_lie_where_the_specification_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only absolute paths count, the first one of a list; an empty variable is none."""
    monkeypatch.setenv("HOME", "/home/any")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        monkeypatch.setenv("XDG_CONFIG_DIRS", value)
        assert config.user_file() == Path("/home/any/.config/builder/settings.toml")
        assert config.host_file() == Path("/etc/xdg/builder/settings.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c:d")
    monkeypatch.setenv("XDG_CONFIG_DIRS", "relative:/a:/b")
    assert config.user_file() == Path("/c:d/builder/settings.toml")
    assert config.host_file() == Path("/a/builder/settings.toml")


def test_settings_file_says_who_gets_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "host"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    assert config.load_notify() == config.NotifySettings()
    for path, text in (
        (config.host_file(), "[notify]\nto = ['/etc/addresses']\nreport_url = 'https://ci.example'\nwhen = 'always'\n"),
        (config.user_file(), "[notify]\nto = [\n  'json://a.example',\n]\n"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    told = config.NotifySettings(("json://a.example",), "always", "https://ci.example", config.user_file())
    assert config.load_notify() == told
    assert config.load() == config.Directories()
    # `host prepare` writes its table and leaves the other as it is, however often.
    for _ in range(2):
        before = config.user_file().read_text()
        config.user_file().write_text(config.render(config.Directories(media=tmp_path), before))
    assert config.user_file().read_text() == (
        f"{config.HEAD}\n[directories]\nmedia = \"{tmp_path}\"\n\n[notify]\nto = [\n  'json://a.example',\n]\n"
    )
    assert config.load_notify() == told


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[notify]\nto = 'json://u:s3cret@a.example'\n", "notify.to"),
        ("[notify]\nto = [['json://u:s3cret@a.example']]\n", "notify.to"),
        ("[notify]\nurls = ['json://u:s3cret@a.example']\n", "notify.urls"),
        ("[notify]\nwhen = 'never'\n", "notify.when"),
        ("[notify]\nreport_url = 3\n", "notify.report_url"),
        ("notify = ['json://u:s3cret@a.example']\n", "notify"),
        ("[notify]\nto = ['json://u:s3cret@a.example'\n", "Unclosed"),
    ],
)
def test_a_wrong_address_in_the_settings_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    config.host_file().parent.mkdir(parents=True)
    config.host_file().write_text(text)
    with pytest.raises(RecipeError, match="is no settings file") as fault:
        config.load_notify()
    assert where in fault.value.details
    assert "s3cret" not in f"{fault.value.brief}{fault.value.details}{fault.value.hint}"


@pytest.mark.parametrize(
    "text", ["[directories", "[other]\n", "[directories]\nisos = '/x'\n", "[directories]\nstore = 'x'\n"]
)
def test_a_damaged_settings_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    config.host_file().parent.mkdir(parents=True)
    config.host_file().write_text(text)
    with pytest.raises(RecipeError, match="is no settings file"):
        config.load()


def test_a_network_script_with_a_fault_is_a_finding(world: tuple[Cell, Cell]) -> None:
    host, _ = world
    script = "mkdir -p /etc/sysconfig/network-scripts; echo ONBOOT=br0 > /etc/sysconfig/network-scripts/ifcfg-up0"
    host.run("sh", "-c", script)
    rows = json.loads(host.builder("host", "check", "--json").stdout)["rows"]
    assert [row["found"] for row in rows if row["name"] == "ifcfg"] == ["ifcfg-up0: ONBOOT=br0: must be yes or no"]
