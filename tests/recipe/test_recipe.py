"""Recipes: what is accepted, and how each fault is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from builder.errors import RecipeError
from builder.recipe import Limits, MachineSection, Recipe, duration, find_all, load, schema, size
from builder.recipe.models import Network

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]


def faults(folder: Path, text: str, sets: dict[str, str] | None = None) -> list[str]:
    """The fault lines of a recipe `small` with this text, without the folder in front."""
    (folder / "small.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load("small", sets or {}, (folder,))
    assert caught.value.exit_code == 2
    return [line.removeprefix(f"{folder}/") for line in caught.value.details.splitlines()]


def test_a_recipe_has_the_values_of_its_file_and_defaults(pipelines: Path) -> None:
    recipe = load("small", {}, (pipelines,))
    assert recipe.machine == MachineSection(vcpus=2, memory=1 << 30, firmware="bios", devices="virtio", machine="q35")
    assert recipe.limits == Limits(install=1200, quiet=300, boot=120)
    assert recipe.disk.size == 8 << 30
    assert (recipe.release, recipe.media.delivery, recipe.delivery) == ("el7", None, "remaster")
    assert recipe.publish.keep == 3
    assert recipe.kickstart.vars == {"timezone": "UTC"}


def test_a_machine_with_uefi_cannot_be_saved(pipelines: Path) -> None:
    assert load("small", {"warm": "true"}, (pipelines,)).warm
    with pytest.raises(RecipeError) as caught:
        load("small", {"warm": "true", "machine.firmware": "uefi"}, (pipelines,))
    assert "QEMU cannot save a running machine with UEFI" in caught.value.details


def test_a_recipe_is_frozen(pipelines: Path) -> None:
    recipe = load("small", {}, (pipelines,))
    with pytest.raises(ValidationError):
        recipe.machine.vcpus = 9


def test_the_recipes_of_this_project_are_right() -> None:
    folder = REPOSITORY / "pipelines"
    names = list(find_all((folder,)))
    assert "centos7-minimal" in names
    for name in names:
        assert load(name, {}, (folder,)).name == name


@pytest.mark.parametrize(
    ("text", "value"),
    [("2GiB", 2 << 30), ("512MiB", 512 << 20), ("512 MiB", 512 << 20), ("7KiB", 7168), ("10B", 10), (4096, 4096)],
)
def test_size(text: object, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["2GB", "2gib", "-1MiB", "1.5GiB", "", "GiB", "2GiB\n", True, -1, 1.5, None, []])
def test_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="is no size: write 2GiB"):
        size(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("60m", 3600), ("90s", 90), ("1h30m", 5400), ("1h", 3600), ("2h1m5s", 7265), ("45", 45)],
)
def test_duration(text: object, value: int) -> None:
    assert duration(text) == value


@pytest.mark.parametrize("text", ["1d", "m", "", "1m1h", "-5s", "5 m", "60m\n", True, -1, 0.5, None])
def test_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="is no duration: write 60m"):
        duration(text)


# What is changed in the good recipe, and the fault that must be reported, with its line.
TABLE = [
    ("name: small", "name: other", "small.yaml:1: name: 'other' differs from the file's name, 'small'"),
    ("name: small", "name: Small", "small.yaml:1: name: 'Small' is no name: use a-z"),
    ("name: small", "name: a-rehearsal", "small.yaml:1: name: 'a-rehearsal' ends with -rehearsal"),
    ("name: small\n", "", "small.yaml:1: name: is missing"),
    (
        "sha256: " + "ab" * 32,
        "sha256: abc",
        "small.yaml:4: media.sources[0].sha256: 'abc' is no sha256: 64 hex",
    ),
    ("[http://mirror.invalid/small.iso]", "[]", "small.yaml:5: media.sources[0].urls: needs at least 1 entry"),
    (
        "http://mirror",
        "ftp://mirror",
        "small.yaml:5: media.sources[0].urls[0]: 'ftp://mirror.invalid/small",
    ),
    ("http://mirror", "http://me:pw@mirror", "small.yaml:5: media.sources[0].urls[0]: 'http://me:pw@mirror.invalid/"),
    ("template: small.ks.j2", "template: ../small.ks.j2", "small.yaml:7: kickstart.template: '../small.ks.j2' is no"),
    (
        "timezone: UTC",
        'timezone: "UTC\\nrootpw x"',
        r"small.yaml:9: kickstart.vars.timezone: 'UTC\nrootpw x' holds",
    ),
    ("timezone: UTC", "rootpw: UTC", "small.yaml:9: kickstart.vars.rootpw: a recipe holds no secrets"),
    ("memory: 1GiB", "memory: 1GB", "small.yaml:11: machine.memory: '1GB' is no size: write 2GiB"),
    ("memory: 1GiB", "memory: 1024", "small.yaml:11: machine.memory: 1024 bytes are too few: at least 64MiB"),
    (
        "memory: 1GiB",
        "memory: 100000001",
        "small.yaml:11: machine.memory: 100000001 bytes are no whole number of",
    ),
    ("memory: 1GiB", "memroy: 1GiB", "small.yaml:11: machine.memroy: unknown key 'memroy': did you mean 'memory'?"),
    ("memory: 1GiB", "wheels: 4", "small.yaml:11: machine.wheels: unknown key 'wheels': known are vcpus, memory,"),
    ("memory: 1GiB", "vcpus: two", "small.yaml:11: machine.vcpus: 'two' is no whole number"),
    ("memory: 1GiB", "vcpus: true", "small.yaml:11: machine.vcpus: True is no whole number"),
    ("memory: 1GiB", "vcpus: 0", "small.yaml:11: machine.vcpus: 0 is less than 1"),
    (
        "firmware: bios",
        "firmware: uefi-secure",
        "small.yaml:12: machine.firmware: 'uefi-secure': there is no Secure Boot",
    ),
    ("firmware: bios", "firmware: efi", "small.yaml:12: machine.firmware: 'efi' is none of 'bios', 'uefi'"),
    ("firmware: bios", "memory: 2GiB", "small.yaml:12: machine.memory: given twice (first in line 11)"),
    ("quiet: 5m", "quiet: 1h", "small.yaml:13: limits.quiet: quiet (3600 s) is longer than install (1200 s)"),
    ("boot: 2m", "boot: 0", "small.yaml:13: limits.boot: must be at least 1s"),
    ("limits: {install: 20m, quiet: 5m, boot: 2m}", "limits: 5", "small.yaml:13: limits: must be a section of"),
    ('run: "true"', "run: true", "small.yaml:16: verify.checks[0].run: True is no shell command (put it in quotes)"),
    (
        'run: "true"}',
        'run: "true"}\n    - {name: it runs, run: "x"}',
        "small.yaml:17: verify.checks[1].name: a",
    ),
    ("keep: 3", "keep: 0", "small.yaml:18: publish.keep: 0 is less than 1"),
    ("publish:\n  keep: 3", "publish: &p {}\nnetwork: *p", "small.yaml:18: network: aliases are not allowed"),
    ("keep: 3", "keep: [3", "small.yaml:19: not YAML: expected ',' or ']', but got '<stream end>'"),
    ("keep: 3", "keep: !odd 3", "small.yaml:18: not YAML: could not determine a constructor for the tag '!odd'"),
    ("keep: 3", "\tkeep: 3", "small.yaml:18: not YAML: found character '\\t' that cannot start any token"),
]


@pytest.mark.parametrize(("old", "new", "fault"), TABLE)
def test_each_fault_has_its_line(pipelines: Path, recipe_text: str, old: str, new: str, fault: str) -> None:
    assert old in recipe_text
    (line,) = faults(pipelines, recipe_text.replace(old, new))
    assert line.startswith(fault)


def test_all_faults_are_reported_at_once_in_the_order_of_lines(pipelines: Path, recipe_text: str) -> None:
    text = recipe_text.replace("1GiB", "1GB").replace("bios", "efi").replace("keep: 3", "keep: 0").replace("UTC", "a b")
    sets = {"machine.machine": "pdp11", "machin.vcpus": "3"}
    found = faults(pipelines, text, sets)
    places = [line.split(": ")[0] for line in found]
    assert places[:4] == ["small.yaml:9", "small.yaml:11", "small.yaml:12", "small.yaml:18"]
    assert sorted(places[4:]) == ["--set machin.vcpus=3", "--set machine.machine=pdp11"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "word\n", "5\n"])
def test_a_file_that_holds_no_recipe(pipelines: Path, text: str) -> None:
    assert faults(pipelines, text) == ["small.yaml:1: is no recipe: it must hold 'key: value' lines"]


def test_deep_nesting_is_a_fault_and_no_crash(pipelines: Path) -> None:
    assert faults(pipelines, "[" * 1000) == ["small.yaml:1: not a recipe: nested too deeply"]


def test_a_file_that_is_no_text(pipelines: Path) -> None:
    (pipelines / "small.yaml").write_bytes(b"name: small\n# \xff\n")
    with pytest.raises(RecipeError, match="no UTF-8") as caught:
        load("small", {}, (pipelines,))
    assert caught.value.details.endswith("small.yaml:2: byte 0xff")


def test_set_lays_values_over_the_file(pipelines: Path) -> None:
    sets = {
        "machine.firmware": "uefi",
        "machine.memory": "2GiB",
        "network.mode": "nat",
        "kickstart.vars.packages": "[vim, -nano]",
        "media.sources.0.urls": '["https://other.invalid/small.iso"]',
        "limits.install": "1h30m",
    }
    recipe = load("small", sets, (pipelines,))
    assert (recipe.machine.firmware, recipe.machine.memory, recipe.network.mode) == ("uefi", 2 << 30, "nat")
    assert recipe.kickstart.vars == {"timezone": "UTC", "packages": ("vim", "-nano")}
    assert recipe.media.sources[0].urls == ("https://other.invalid/small.iso",)
    assert recipe.limits == Limits(install=5400, quiet=300, boot=120)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("machine.firmware", "efi", "--set machine.firmware=efi: 'efi' is none of"),
        ("machine.frmware", "uefi", "--set machine.frmware=uefi: unknown key 'frmware': did you mean 'firmware'?"),
        ("machine.memory.unit", "GiB", "--set machine.memory.unit=GiB: the recipe has no such entry"),
        ("media.sources.3.sha256", "ab", "--set media.sources.3.sha256=ab: the recipe has no such entry"),
        (
            "limits.install",
            "1m",
            "--set limits.install=1m: quiet (300 s) is longer than install (60 s)",
        ),
        ("kickstart.vars.hostname", "%end", "--set kickstart.vars.hostname=%end: '%end' starts with '%'"),
        ("kickstart.vars.lang", "[a, b", "--set kickstart.vars.lang=[a, b: not YAML: expected ',' or ']'"),
        ("verify.checks", "[{name: a}]", "--set verify.checks=[{name: a}]: verify.checks[0].run: is missing"),
        (
            "verify.allow_private_keys",
            "[opt/dev.pem]",
            "--set verify.allow_private_keys=[opt/dev.pem]: verify.allow_private_keys[0]: 'opt/dev.pem' is no absolute",
        ),
        ("name", "other", "--set name=other: 'other' differs from the file's name, 'small'"),
        ("", "x", "--set =x: unknown key ''"),
    ],
)
def test_faults_of_set_are_named_as_such(pipelines: Path, recipe_text: str, place: str, value: str, fault: str) -> None:
    (line,) = faults(pipelines, recipe_text, {place: value})
    assert line.startswith(fault)


def test_an_unknown_pipeline_gets_near_names_and_the_list(pipelines: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load("smal", {}, (pipelines,))
    assert caught.value.brief == "no pipeline named 'smal'"
    assert "known: small" in caught.value.details
    assert caught.value.hint == "did you mean small?"


def test_a_recipe_can_be_named_by_its_path(pipelines: Path) -> None:
    assert load(str(pipelines / "small.yaml"), {}, ()).name == "small"
    for missing in (str(pipelines / "none.yaml"), str(pipelines), "none.yaml"):
        with pytest.raises(RecipeError, match="no recipe at"):
            load(missing, {}, (pipelines,))


def test_the_first_folder_wins(pipelines: Path, tmp_path: Path, recipe_text: str) -> None:
    second = tmp_path / "second"
    second.mkdir()
    for name in ("small", "extra"):
        (second / f"{name}.yaml").write_text(recipe_text.replace("name: small", f"name: {name}"))
    assert find_all((pipelines, second, tmp_path / "absent")) == {
        "extra": second / "extra.yaml",
        "small": pipelines / "small.yaml",
    }


def test_the_schema_names_every_key_and_says_how_sizes_are_written() -> None:
    text = json.dumps(schema())
    assert set(schema()["properties"]) == {field.alias or name for name, field in Recipe.model_fields.items()}
    assert "GiB" in text
    assert schema()["additionalProperties"] is False


def test_a_network_has_a_name_where_there_is_one() -> None:
    assert Network(mode="bridge", name="br7").name == "br7"
    assert Network.model_validate({"mode": "nat"}).name is None
    for wrong in ({"name": "br0"}, {"mode": "bridge", "name": "a/b"}, {"mode": "bridge", "name": "x" * 16}):
        with pytest.raises(ValueError, match="name"):
            Network.model_validate(wrong)
