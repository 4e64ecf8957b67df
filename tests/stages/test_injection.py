"""Values from a recipe or a medium cannot leave their folder or be read as XML, shell, kickstart or GRUB syntax."""

from __future__ import annotations

import dataclasses
import shlex
import uuid
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from builder import images
from builder.clones.request import NAME as CLONE
from builder.errors import BuilderError, MediumError, PublishError
from builder.iso import boot_menu
from builder.kickstart import render as kickstart
from builder.recipe import types
from builder.recipe.variables import check_variable
from builder.stages import kickstart as answers
from builder.vm.domain_xml import render
from builder.vm.machine_spec import DirectKernel, Disk, MachineSpec

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
# Near misses are common: pieces that a reader of some language takes for more than letters, between plain ones.
PIECES = [
    *("/", "..", ".", "-", "~", "\\", "\n", "\r", "\0", " ", "\t", "'", '"', "`", "$", "$(", ";", "&", "|", "<", ">"),
    *("#", "%end", "%post", "{", "}", "{{", "{%", "]]>", "<!--", "&lt;", "é", "\u202e", "\x1b[2J", "=", "*", "?", "!"),
    *("a", "Z", "0", "web", "_", "x86", "+", "@", ":", ","),
]
TEXT = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))


def accepted(kind: object, text: str) -> str | None:
    """The text as a recipe would hold it; None when it is refused."""
    try:
        return str(TypeAdapter(kind).validate_python(text))  # type: ignore[arg-type]
    except ValidationError:
        return None


@given(text=TEXT)
def test_a_name_is_one_part_of_a_path_and_one_word(text: str) -> None:
    for kind in (types.Name, types.Template):
        name = accepted(kind, text)
        if name is not None:
            assert PurePosixPath("/base", name).parent == PurePosixPath("/base")
            assert name not in (".", "..")
            assert not name.startswith("-")
            assert shlex.quote(name) == name
            assert name.isascii()


@given(text=TEXT)
def test_a_source_stays_below_its_folder(text: str) -> None:
    for kind in (types.SourceName, types.Playbook):
        name = accepted(kind, text)
        if name is not None:
            assert Path("/base", name).resolve().is_relative_to("/base")
            assert shlex.quote(name) == name


@given(text=TEXT)
def test_a_path_in_the_guest_is_absolute_and_one_word(text: str) -> None:
    path = accepted(types.GuestPath, text)
    if path is not None:
        assert path.startswith("/")
        assert ".." not in PurePosixPath(path).parts
        assert shlex.quote(path) == path


@given(text=TEXT)
def test_a_clone_is_called_by_one_plain_word(text: str) -> None:
    if CLONE.fullmatch(text):
        assert PurePosixPath("/base", text).parent == PurePosixPath("/base")
        assert shlex.quote(text) == text


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with the image `toy`; beside it `outside`, and `link`, to which a link in the catalogue leads."""
    base = tmp_path_factory.mktemp("base")
    for place, name in (("images", "toy"), (".", "outside"), ("elsewhere", "link")):
        (base / name).with_suffix(".disk").write_text(name)
        images.publish(base / place, name, {f"{name}.qcow2": (base / name).with_suffix(".disk")}, {})
    (base / "images" / "link").symlink_to(base / "elsewhere" / "link")
    return base / "images"


# Most of these names lead to a folder, and many to an image of another folder.
STEPS = st.sampled_from(["..", ".", "", "toy", "latest", "images", "outside", "elsewhere", "link"])
PATHS = st.lists(STEPS, min_size=1, max_size=4).map("/".join)
ELSEWHERE = ("../outside", "link", "./toy", "toy/", "../images/toy", "toy/../../outside", "../elsewhere/link")


@example(name=ELSEWHERE[0], version="@")
@given(name=st.one_of(PATHS, TEXT, st.sampled_from(ELSEWHERE)), version=st.one_of(st.just(""), TEXT.map("@{}".format)))
def test_the_catalogue_opens_no_other_folder(catalogue: Path, name: str, version: str) -> None:
    try:
        image = images.load_image(catalogue, f"{name}{version}")
    except BuilderError:
        return
    assert f"{name}{version}".partition("@")[0] == "toy"
    assert image.path.parent == catalogue / "toy"


@pytest.mark.parametrize("name", [*ELSEWHERE, "/absolute"])
def test_an_image_outside_the_catalogue_is_not_found(catalogue: Path, name: str) -> None:
    name = name.replace("/absolute", str(catalogue.parent / "outside"))
    # It is there, and a path put together without care would lead to it.
    assert images.list_images(catalogue, name)
    for version in ("", "@" + images.list_images(catalogue, name)[0].version):
        with pytest.raises(PublishError, match="there is no image"):
            images.load_image(catalogue, name + version)


PLAIN = MachineSpec(
    name="plain",
    uuid=uuid.UUID(int=1),
    run_id="plain",
    role="plain",
    mac="52:54:00:00:00:01",
    disks=(Disk(Path("/plain"), "raw", "plain"),),
    kernel=DirectKernel(Path("/plain"), Path("/plain"), "plain"),
    serial1=Path("/plain"),
)
# What XML 1.0 can hold at all (section 2.2); libvirt refuses the rest, and says so.
XML_TEXT = TEXT.filter(lambda text: all(char in "\t\n" or char >= " " for char in text) and "\r" not in text)


def shape(element: ET.Element) -> object:
    """Names of elements and attributes, without any value."""
    return element.tag, sorted(element.attrib), [shape(child) for child in element]


@given(text=XML_TEXT)
def test_no_value_adds_to_the_machine_s_xml(text: str) -> None:
    disk = Disk(Path("/", text), "raw", "plain")
    kernel = DirectKernel(Path("/plain"), Path("/plain"), text)
    spec = dataclasses.replace(PLAIN, name=text, run_id=text, role=text, disks=(disk,), kernel=kernel)
    found, plain = ET.fromstring(render(spec)), ET.fromstring(render(PLAIN))
    assert shape(found) == shape(plain)
    assert (found.findtext("name") or "") == text


def rendered(**given: object) -> list[str]:
    """Lines of our own kickstart with these values."""
    values = {"hostname": "h", "keyboard": "us", "lang": "C", "packages": [], "timezone": "UTC"} | given
    texts = kickstart.collect("centos7-minimal.ks.j2", [ROOT / "kickstarts"])
    inputs = answers.KickstartInputs(
        template="centos7-minimal.ks.j2", templates=texts, vars=values, disk_serial="S", password_mac=""
    )
    return answers.render(inputs, root_crypt="$6$x$y", token="0" * 64).splitlines()


NORMAL = rendered()


@given(name=st.sampled_from(["hostname", "keyboard", "lang", "timezone"]), text=TEXT)
def test_no_variable_adds_a_word_to_the_kickstart(name: str, text: str) -> None:
    if check_variable(name, text) is not None:
        return
    lines = rendered(**{name: text})
    assert len(lines) == len(NORMAL)
    for line, normal in zip(lines, NORMAL, strict=True):
        if line != normal:
            words, before = shlex.split(line, comments=True), shlex.split(normal, comments=True)
            assert len(words) == len(before)
            assert sum(word != old for word, old in zip(words, before, strict=True)) == 1


@given(texts=st.lists(TEXT, min_size=1, max_size=3))
def test_packages_add_one_line_each_inside_their_section(texts: list[str]) -> None:
    if check_variable("packages", texts) is not None:
        return
    lines = rendered(packages=texts)
    assert len(lines) == len(NORMAL) + len(texts)
    start = lines.index("-iwl*firmware") + 1
    assert lines[start : start + len(texts)] == texts
    assert lines[start + len(texts)] == "%end"


GRUB = """set default="1"
menuentry 'Install CentOS 7' {
\tlinuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=C quiet
\tinitrdefi /images/pxeboot/initrd.img
}
"""
ISOLINUX = "default vesamenu.c32\nlabel linux\n  kernel vmlinuz\n  append initrd=initrd.img quiet\n"
NORMAL_GRUB = boot_menu.edit_grub(GRUB, ("inst.ks=hd:LABEL=plain:/ks.cfg",), "unattended")
NORMAL_ISOLINUX = boot_menu.edit_isolinux(ISOLINUX, ("inst.ks=hd:LABEL=plain:/ks.cfg",), "unattended")
# GRUB manual, "Shell-like scripting": what ends a word or is read as something else; `#` in front of a word.
SPECIAL = set("{}|&$;<>'\"") | set(" \t\n\r\v\f\0")


@given(text=TEXT)
def test_no_label_of_a_medium_is_read_by_a_boot_loader(text: str) -> None:
    argument = f"inst.ks=hd:LABEL={text}:/ks.cfg"
    try:
        grub = boot_menu.edit_grub(GRUB, (argument,), "unattended")
        isolinux = boot_menu.edit_isolinux(ISOLINUX, (argument,), "unattended")
    except MediumError:
        return
    assert not SPECIAL & set(argument)
    assert argument.isprintable()
    for made, normal in ((grub, NORMAL_GRUB), (isolinux, NORMAL_ISOLINUX)):
        assert made == normal.replace("LABEL=plain:", f"LABEL={text}:")


@given(text=TEXT)
def test_a_kernel_argument_that_begins_a_comment_is_refused(text: str) -> None:
    with pytest.raises(MediumError):
        boot_menu.check_arguments([f"#{text}"])
