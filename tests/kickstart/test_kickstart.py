"""The rendered kickstart: what the CentOS 7 installer must find in it, and that no variable can break it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.kickstart import lint, render

pytestmark = pytest.mark.unit

TEMPLATES = Path(__file__).parents[2] / "kickstarts"
TEMPLATE = "centos7-minimal.ks.j2"
VARS: dict[str, object] = {
    "hostname": "golden.example.org",
    "keyboard": "us",
    "lang": "en_US.UTF-8",
    "packages": ["tree"],
    "timezone": "Europe/Berlin",
}
OWN = {"root_crypt": "$6$salt$hash", "disk_serial": "BUILDER-SYSTEM", "token": "0123abcd"}


@pytest.fixture(scope="module")
def text() -> str:
    texts = render.collect(TEMPLATE, [TEMPLATES])
    return render.render(texts, TEMPLATE, {**VARS, **OWN})


def section(text: str, head: str) -> str:
    """The lines of one %section, without head and %end."""
    found = re.search(rf"^{re.escape(head)}[^\n]*\n(.*?)^%end$", text, re.M | re.S)
    assert found, f"no {head}"
    return found[1]


def commands(text: str) -> list[str]:
    """The command section: everything before the first %section, without comments."""
    head = text.split("\n%", 1)[0]
    return [line for line in head.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "line",
    [
        "text",
        "cdrom",
        "poweroff",
        "zerombr",
        "reqpart",
        "clearpart --all --initlabel",
        "ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM",
        "rootpw --iscrypted $6$salt$hash",
        "timezone Europe/Berlin --utc",
        "lang en_US.UTF-8",
        "keyboard --vckeymap=us",
        "selinux --enforcing",
    ],
)
def test_has_command(text: str, line: str) -> None:
    assert line in commands(text)


def test_root_is_the_last_partition_and_grows(text: str) -> None:
    parts = [line for line in commands(text) if line.split()[0] in {"reqpart", "part"}]
    assert parts[-1].startswith("part / ")
    assert "--grow" in parts[-1]


def test_both_consoles_and_old_interface_names_on_the_installed_kernel_line(text: str) -> None:
    (line,) = (line for line in commands(text) if line.startswith("bootloader"))
    append = re.search(r'--append="([^"]*)"', line)
    assert append
    words = append[1].split()
    assert {"net.ifnames=0", "biosdevname=0", "console=tty0"} <= set(words)
    # The last one is where the login prompt and the kernel's messages go.
    assert words[-1] == "console=ttyS0,115200n8"


def test_names_no_disk_by_its_kernel_name(text: str) -> None:
    assert not re.search(r"\b[sv]d[a-z]\b", text)


def test_hostname_comes_with_the_network_line(text: str) -> None:
    (line,) = (line for line in commands(text) if line.startswith("network"))
    assert "--hostname=golden.example.org" in line
    assert "--device=eth0" in line


def test_added_package_is_in_the_package_section(text: str) -> None:
    assert section(text, "%packages").split()[0] == "@core"
    assert "tree" in section(text, "%packages").split()


def test_kdump_is_off(text: str) -> None:
    assert "%addon com_redhat_kdump --disable\n%end" in text


def test_initramfs_fits_any_hardware(text: str) -> None:
    assert re.search(r'^ *dracut -f --no-hostonly "/boot/initramfs-\$kernel.img" "\$kernel"$', text, re.M)


def test_the_size_of_the_disk_is_recorded_before_the_image_is_sealed(text: str) -> None:
    post = section(text, "%post")
    assert "\n/usr/libexec/builder/grow-root --record\n" in post
    assert post.index("chmod 0755 /usr/libexec/builder/first-boot /usr/libexec/builder/grow-root") < post.index(
        "--record\n"
    )


@pytest.mark.parametrize("template", [TEMPLATE, "el-minimal.ks.j2"])
def test_with_cloud_init_builders_unit_only_tells(template: str) -> None:
    texts = render.collect(template, [TEMPLATES])
    post = section(render.render(texts, template, {**VARS, **OWN, "packages": ["cloud-init"]}), "%post")
    assert "/usr/libexec/builder/tell-identity" in post
    assert "ExecStart=/usr/libexec/builder/first-boot" not in post
    assert "grow-root" not in post
    assert subprocess.run(["dash", "-n"], input=post, text=True, capture_output=True, check=False).stderr == ""
    assert post.rstrip().endswith('echo "BUILDER INSTALLED 0123abcd" > /dev/ttyS1')


def test_repositories_are_three_paths_of_the_vault(text: str) -> None:
    paths = re.findall(r"^baseurl=http://vault\.centos\.org/7\.9\.2009/(\w+)/\$basearch/$", text, re.M)
    assert paths == ["os", "updates", "extras"]
    assert "mirrorlist" not in section(text, "%post")


def test_everything_that_post_writes_is_relabelled(text: str) -> None:
    """SELinux: Anaconda relabels its own files only; a file that %post wrote keeps the installer's label."""
    post = section(text, "%post")
    unit = post[post.index("<<'SCRIPT'") : post.index("\nSCRIPT\n")]
    outside = post.replace(unit, "")
    written = set(re.findall(r">\s*(/etc/[\w./-]+|/usr/[\w./-]+)", outside))
    written |= set(re.findall(r"sed -i .* (/etc/[\w./-]+)$", outside, re.M))
    relabelled = re.findall(r"^ *restorecon (?:-R )?(.*)$", outside, re.M)
    covered = [path for line in relabelled for path in line.split()]
    assert len(written) >= 5
    for path in written:
        assert any(path == known or path.startswith(known.rstrip("/") + "/") for known in covered), path


def test_marker_is_the_last_act_and_failures_stop_before_it(text: str) -> None:
    post = section(text, "%post")
    lines = [line for line in post.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -eu"
    assert lines[-1] == 'echo "BUILDER INSTALLED 0123abcd" > /dev/ttyS1'
    assert text.count("%post") == 1
    assert "%post --erroronfail\n" in text


def test_identity_is_sealed(text: str) -> None:
    post = section(text, "%post")
    assert "\n: > /etc/machine-id\n" in post
    assert "rm -f /etc/ssh/ssh_host_*" in post


def test_passes_the_checker(text: str) -> None:
    assert [finding for finding in lint.lint(text) if finding.severity == "error"] == []


def test_scripts_are_posix_shell(text: str) -> None:
    done = subprocess.run(["dash", "-n"], input=section(text, "%post"), text=True, capture_output=True, check=False)
    assert done.stderr == ""


def test_checker_tells_errors_from_deprecations(text: str) -> None:
    wrong = text.replace("zerombr", "zerombx").replace("%packages", "%packages --nobase")
    findings = lint.lint(wrong)
    line = 1 + wrong.splitlines().index("zerombx")
    assert [(found.line, found.message) for found in findings if found.severity == "error"] == [
        (line, "Unknown command: zerombx")
    ]
    assert any("--nobase" in found.message for found in findings if found.severity == "warning")


def test_checker_sees_a_missing_end(text: str) -> None:
    errors = [found for found in lint.lint(text.removesuffix("%end\n")) if found.severity == "error"]
    assert any("does not end with %end" in found.message for found in errors)


def test_checker_accepts_sshkey_which_the_installer_of_7_9_knows(text: str) -> None:
    with_key = text.replace("skipx\n", 'skipx\nsshkey --username=root "ssh-ed25519 AAAA x"\n')
    assert [found for found in lint.lint(with_key) if found.severity == "error"] == []


def test_unknown_variable_gets_the_near_name() -> None:
    texts = render.collect(TEMPLATE, [TEMPLATES])
    with pytest.raises(RecipeError) as caught:
        render.check_variables(texts, {**VARS, "hostnam": "x"})
    assert "kickstart.vars.hostnam is not used by the template; did you mean hostname?" in caught.value.details


def test_missing_variable_is_named() -> None:
    texts = render.collect(TEMPLATE, [TEMPLATES])
    given = {name: value for name, value in VARS.items() if name != "lang"}
    with pytest.raises(RecipeError) as caught:
        render.check_variables(texts, given)
    assert "kickstart.vars.lang is needed" in caught.value.details


def test_template_outside_its_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.ks.j2").write_text("text\n")
    with pytest.raises(RecipeError, match="no kickstart template"):
        render.collect("../secret.ks.j2", [tmp_path / "in"])


def test_template_fault_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.ks.j2").write_text("text\n{% if %}\n")
    with pytest.raises(RecipeError, match=r"x\.ks\.j2:2"):
        render.collect("x.ks.j2", [tmp_path])


def test_template_in_another_encoding_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "x.ks.j2").write_bytes(b"text\n# caf\xe9\n")
    with pytest.raises(RecipeError, match=r"x\.ks\.j2:2: not UTF-8"):
        render.collect("x.ks.j2", [tmp_path])


def test_windows_line_ends_do_not_reach_the_installer(tmp_path: Path) -> None:
    (tmp_path / "x.ks.j2").write_bytes(b"text\r\ncdrom\r\n")
    texts = render.collect("x.ks.j2", [tmp_path])
    assert "\r" not in render.render(texts, "x.ks.j2", {})


def test_lint_leaves_no_copy_of_the_secret_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ksvalidator makes a copy of its own and forgets it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    lint.lint("rootpw --iscrypted $6$secret\n")
    assert list(tmp_path.iterdir()) == []
