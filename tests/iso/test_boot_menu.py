"""Boot menus with a kickstart entry: what it starts, what stays of the vendor's, and what is refused."""

from __future__ import annotations

import re

import pytest

from builder.errors import MediumError
from builder.iso.boot_menu import Menu, edit_grub, edit_isolinux, label_argument, require_label
from tests.fakes.vendor import ESCAPED, GRUB_CFG, ISOLINUX_CFG

ARGUMENTS = [rf"inst.ks=hd:LABEL={ESCAPED}:/ks.cfg", "console=ttyS0,115200"]
JOINED = " ".join(ARGUMENTS)
MENUS: tuple[Menu, ...] = ("unattended", "safe")
LOCAL = "label localdisk\n  menu label Boot from local disk\n  menu default\n  localboot 0xffff\n"


def test_isolinux_starts_the_kickstart_at_once() -> None:
    lines = edit_isolinux(ISOLINUX_CFG, ARGUMENTS, "unattended").splitlines()
    assert lines[:4] == ["serial 0 115200", "default kickstart", "prompt 0", "timeout 1"]
    assert not any(line.startswith(("default vesamenu", "timeout 600")) for line in lines)
    assert not any("menu default" in line for line in lines)


def test_isolinux_keeps_every_entry_as_it_was() -> None:
    for menu in MENUS:
        text = edit_isolinux(ISOLINUX_CFG, ARGUMENTS, menu)
        for line in ISOLINUX_CFG.splitlines():
            if line.strip().startswith(("label", "append", "kernel", "localboot", "menu label")):
                assert line in text.splitlines()
        assert text.count(JOINED) == 1
        assert rf"append initrd=initrd.img inst.stage2=hd:LABEL={ESCAPED} quiet {JOINED}" in text


def test_isolinux_safe_menu_waits_as_the_vendors_does() -> None:
    text = edit_isolinux(ISOLINUX_CFG, ARGUMENTS, "safe")
    assert text.startswith("default vesamenu.c32\ntimeout 600\n")
    assert text.index("label localdisk") < text.index("label kickstart") < text.index("label linux")
    assert LOCAL in text
    assert "  menu label Install unattended - ERASES DISKS\n" in text


@pytest.mark.parametrize(
    "extra",
    [
        "",
        "menu begin More\nlabel local\n  menu default\n  localboot 0xffff\nmenu end\n",
        "menu begin More\nmenu start\nlabel other\n  localboot 0\nmenu end\n",
        "ontimeout linux\ntotaltimeout 10\ntimeout 5\nprompt 0\n",
        "MENU IMMEDIATE\n  Menu Default\nTIMEOUT 1\n",
        "label kickstart\n  menu default\n  kernel old\n  append initrd=old inst.ks=old\n",
    ],
    ids=["nothing more", "local in a submenu", "start in a submenu", "hurry", "capitals", "an earlier edit"],
)
@pytest.mark.parametrize("front", [True, False], ids=["before", "behind"])
def test_isolinux_safe_menu_has_one_default_and_that_is_no_kickstart(extra: str, front: bool) -> None:
    entry = "label linux\n  kernel vmlinuz\n  append initrd=i\n"
    text = edit_isolinux(f"ui menu.c32\n{extra if front else ''}{entry}{'' if front else extra}", ARGUMENTS, "safe")
    # Of this menu, not of a submenu: before the first `menu begin`.
    assert LOCAL in text.partition("menu begin")[0]
    chooses = r"(?im)^\s*(?:default|timeout|totaltimeout|ontimeout|prompt|menu (?:default|start|immediate))\b.*"
    assert [hit.strip() for hit in re.findall(chooses, text)] == ["timeout 600", "menu default"]
    assert text.count("label kickstart") == 1
    assert "inst.ks=old" not in text


@pytest.mark.parametrize("menu", ["safe", "unattended"])
def test_isolinux_without_a_menu_program_starts_the_disk_too(menu: Menu) -> None:
    plain = "default linux\nprompt 1\nlabel linux\n  kernel vmlinuz\n  append initrd=i\n"
    # Also after an edit that boots straight into a kickstart.
    source = plain if menu == "safe" else edit_isolinux(ISOLINUX_CFG, ["inst.ks=old"], "unattended")
    text = edit_isolinux(source, ARGUMENTS, "safe")
    assert "default localdisk\nprompt 1\nsay Boot from local disk after 60 seconds. " in text
    assert LOCAL in text
    assert text.count("label kickstart") == 1
    assert "inst.ks=old" not in text


def test_an_edit_may_be_repeated() -> None:
    for edit, text in ((edit_isolinux, ISOLINUX_CFG), (edit_grub, GRUB_CFG)):
        for menu in MENUS:
            once = edit(text, ARGUMENTS, menu)
            assert edit(edit(text, ["inst.ks=old"], menu), ARGUMENTS, menu) == once
    assert edit_grub(edit_grub(GRUB_CFG, ["inst.ks=old"], "unattended"), ARGUMENTS, "safe") == edit_grub(
        GRUB_CFG, ARGUMENTS, "safe"
    )


def test_isolinux_entry_is_found_by_what_it_does() -> None:
    text = (
        "LABEL check\n  KERNEL vmlinuz\n  APPEND initrd=a rd.live.check\n"
        "LABEL go\n  KERNEL vmlinuz2\n  APPEND initrd=b\n"
    )
    made = edit_isolinux(text, ["x=1"], "unattended")
    assert "label kickstart\n  menu label Install unattended (ERASES DISKS)\n  KERNEL vmlinuz2\n" in made
    assert "  APPEND initrd=b x=1\n" in made


def test_isolinux_without_an_install_entry_is_refused() -> None:
    with pytest.raises(MediumError, match="no entry that installs"):
        edit_isolinux("label local\n  localboot 0xffff\n", ARGUMENTS, "unattended")


def test_grub_starts_the_kickstart_at_once() -> None:
    text = edit_grub(GRUB_CFG, ARGUMENTS, "unattended")
    assert 'set default="0"\n' in text
    assert "set timeout=1\n" in text
    assert "set timeout=60" not in text
    first = text[text.index("menuentry") :]
    assert first.startswith(
        "menuentry 'Install unattended (ERASES DISKS)' --class fedora --class gnu-linux --class os {\n"
        rf"	linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={ESCAPED} quiet {JOINED}" + "\n"
        "	initrdefi /images/pxeboot/initrd.img\n}\n"
    )


def test_grub_keeps_every_entry_as_it_was() -> None:
    for menu in MENUS:
        text = edit_grub(GRUB_CFG, ARGUMENTS, menu)
        assert text.endswith(GRUB_CFG[GRUB_CFG.index("menuentry") :])
        assert text.count(JOINED) == 1
        assert "function load_video {\n  insmod efi_gop\n  insmod all_video\n}\n" in text


def test_grub_safe_menu_boots_from_disk() -> None:
    text = edit_grub(GRUB_CFG, ARGUMENTS, "safe")
    assert text[text.index("menuentry") :].startswith(
        "menuentry 'Boot from local disk' {\n\texit 1\n}\nmenuentry 'Install"
    )
    assert 'set default="0"\n' in text
    assert "set timeout=60\n" in text


def test_grub_default_and_timeout_are_set_wherever_they_stand() -> None:
    text = "menuentry 'Go' {\n\tset timeout=5\n\tlinux /a\n}\nif true; then\n  set default=1\nfi\nset timeout=2\n"
    made = edit_grub(text, ARGUMENTS, "safe")
    assert made.endswith('if true; then\n  set default="0"\nfi\nset timeout=60\n')
    assert "\tset timeout=5\n" in made


def test_grub_entry_is_not_taken_from_a_submenu_or_the_media_check() -> None:
    text = (
        "submenu 'More' {\n\tmenuentry 'A' {\n\t\tlinux /a\n\t}\n}\n"
        "menuentry 'Check' {\n\tlinux /b rd.live.check\n}\n"
        'menuentry "Go ${x}" {\n\tlinux /c quiet ${opts}\n\tinitrd /i\n}\n'
    )
    made = edit_grub(text, ["x=1"], "unattended")
    assert made.startswith("set timeout=1\nset default=\"0\"\nmenuentry 'Install unattended (ERASES DISKS)' {\n")
    assert "\tlinux /c quiet ${opts} x=1\n\tinitrd /i\n}\n" in made


def test_grub_without_an_install_entry_is_refused() -> None:
    with pytest.raises(MediumError, match="no entry that installs"):
        edit_grub("set timeout=5\nmenuentry 'Off' {\n\thalt\n}\n", ARGUMENTS, "unattended")


@pytest.mark.parametrize("argument", ["", "two words", "tab\there", "line\nbreak", "quo'te", 'quo"te'])
def test_arguments_are_single_words(argument: str) -> None:
    for edit, text in ((edit_isolinux, ISOLINUX_CFG), (edit_grub, GRUB_CFG)):
        with pytest.raises(MediumError, match="not one plain word"):
            edit(text, [argument], "unattended")


@pytest.mark.parametrize(
    ("volume_id", "spelled"),
    [("CentOS 7 x86_64", ESCAPED), ("BUILDER_KS", "BUILDER_KS"), ("a/b'c", r"a\x2fb\x27c"), ("#+-.=@_9", "#+-.=@_9")],
)
def test_labels_are_spelled_as_udev_does(volume_id: str, spelled: str) -> None:
    assert label_argument(volume_id) == spelled


# Words of a vendor's entry that make the installer follow another kickstart than the one that is appended.
OTHER_KICKSTARTS = [
    "ks=http://old.example/ks.cfg",
    "inst.ks=hd:LABEL=OLD:/ks.cfg",
    "ks",
    "inst.ks",
    "ks=",
    'ks="hd:LABEL=A B:/ks.cfg"',
    "ks=cdrom:/a inst.ks=cdrom:/b ks=nfs:c:/d",
]
# They name an interface, or what is sent to a server, or have nothing to do with it.
HARMLESS = "ksdevice=eth1 kssendmac inst.ks.sendmac inst.ks.device=eth1 inst.lang=ks bookmarks=1"


@pytest.mark.parametrize("other", OTHER_KICKSTARTS)
@pytest.mark.parametrize("menu", MENUS)
@pytest.mark.parametrize("place", ["between", "last"])
def test_a_kickstart_of_the_vendors_is_not_in_the_copied_entry(other: str, menu: Menu, place: str) -> None:
    words = f"{HARMLESS} {other} quiet" if place == "between" else f"{HARMLESS} quiet {other}"
    isolinux = edit_isolinux(ISOLINUX_CFG.replace("quiet", words), ARGUMENTS, menu)
    expected = f"append initrd=initrd.img inst.stage2=hd:LABEL={ESCAPED} {HARMLESS} quiet {JOINED}"
    assert [line.strip() for line in isolinux.splitlines() if "/ks.cfg console=ttyS0" in line] == [expected]
    # The vendor's own entries stay as they are.
    whole = re.escape(words) + r"(?=\s)"
    assert len(re.findall(whole, isolinux)) == ISOLINUX_CFG.count("quiet")
    grub = edit_grub(GRUB_CFG.replace("quiet", words), ARGUMENTS, menu)
    expected = f"linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={ESCAPED} {HARMLESS} quiet {JOINED}"
    assert [line.strip() for line in grub.splitlines() if "/ks.cfg console=ttyS0" in line] == [expected]
    assert len(re.findall(whole, grub)) == GRUB_CFG.count("quiet")


def test_a_kickstart_behind_the_kernels_file_is_taken_out_too() -> None:
    text = "label linux\n  kernel vmlinuz ks=cdrom:/old\n  append initrd=i\n"
    entry = edit_isolinux(text, ARGUMENTS, "unattended").partition("label kickstart")[2].partition("\n\n")[0]
    assert "  kernel vmlinuz\n" in entry


@pytest.mark.parametrize(
    "words", ["'ks=http://old.example/a b'", '"inst.ks=cdrom:/old"', r"ks=hd:LABEL=A\ B:/ks.cfg", "\\\n\tks=cdrom:/old"]
)
def test_grub_words_that_are_quoted_or_on_a_line_of_their_own(words: str) -> None:
    made = edit_grub(GRUB_CFG.replace("quiet", f"{words} quiet", 1), ARGUMENTS, "unattended")
    entry = made[made.index("menuentry") : made.index("}\n", made.index("menuentry"))]
    assert f"inst.stage2=hd:LABEL={ESCAPED} quiet {JOINED}\n" in entry


@pytest.mark.parametrize(
    ("front", "words"),
    [("", '"quiet ks=cdrom:/old"'), ('set old="quiet ks=cdrom:/old"\n', "$old"), ("set old=ks\n", "${old}")],
)
def test_grub_a_kickstart_that_cannot_be_taken_out_is_refused(front: str, words: str) -> None:
    text = front + GRUB_CFG.replace("quiet", words, 1)
    with pytest.raises(MediumError, match="names a kickstart of its own, in a way that cannot be taken out"):
        edit_grub(text, ARGUMENTS, "unattended")


@pytest.mark.parametrize("volume_id", ["", "a:b"])
def test_labels_that_cannot_be_named_are_refused(volume_id: str) -> None:
    with pytest.raises(MediumError, match="cannot be named to the installer"):
        label_argument(volume_id)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (ISOLINUX_CFG, True),
        (GRUB_CFG, True),
        (r'linuxefi /v "inst.stage2=hd:LABEL=CentOS\\x207\\x20x86_64" quiet', True),
        ("append inst.repo=hd:LABEL=Mine:/ quiet", False),
        ("search --set=root --label Mine", False),
        ("append inst.stage2=hd:LABEL=CentOS 7 x86_64", False),
        ("append inst.stage2=http://h/ inst.dd=hd:LABEL=OEMDRV inst.ks=hd:LABEL=Mine:/ks.cfg", True),
    ],
)
def test_a_menu_has_to_look_for_its_own_medium(text: str, fits: bool) -> None:
    if fits:
        require_label(text, "CentOS 7 x86_64", "menu")
        return
    with pytest.raises(MediumError, match=r"looks for the label '(Mine|CentOS)', but its volume id is 'CentOS 7"):
        require_label(text, "CentOS 7 x86_64", "menu")
