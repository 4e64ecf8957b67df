"""What a release decides: the checker, the machine, the medium, the delivery; old recipes stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import HostError, MediumError, RecipeError
from builder.iso.inspect import MediumFacts
from builder.kickstart import lint, parse, preflight, render
from builder.kickstart.preflight import Room
from builder.nightly.builds import find_builds
from builder.pipeline import kickstart_preview
from builder.pipeline.resolve import resolve
from builder.recipe import find_all, load
from builder.recipe.build_spec import BuildSpec, Medium
from builder.releases import FLAGS, RELEASES, of_version
from builder.settings import HostOptions, Settings
from builder.stage import digest
from builder.stages import fetch, install, kickstart, remaster, verify
from builder.stages.install import InstallInputs
from builder.stages.machine_inputs import require_cpu, require_level
from builder.store.store import Store
from builder.system import host_facts
from tests.kickstart.test_kickstart import OWN, TEMPLATES, VARS
from tests.recipe.test_recipe import faults

pytestmark = pytest.mark.unit

PIPELINES = Path(__file__).parents[1] / "pipelines"
MACHINE = {"vcpus": 1, "memory": 2 << 30, "firmware": "bios", "devices": "virtio", "machine": "q35"}
# Digests of a recipe of before there were releases, by stage; stages' versions and needs left out.
BEFORE = {
    "kickstart": "b9c2229d5d537e87ad223e26387df64a58a76c1aa11da9c55beb9ef6b6a78577",
    "fetch": "b9a0578f67af31e2ba5c92800457d9cc441c39b077e0fcffb77db0df229dc78e",
    "remaster": "471b9f0610e8a142444ac601b2867f8c54698284e283a16ec0fb1be4a00646b8",
    "install": "d9e6e957a8137a7179fc96e0cf063c0a12f15a5be44cfc2eb5ce40370628edd7",
    "verify": "a94548927ac45049470f8145d7e1b901b845976621c32665b06416247c91777e",
}


def spec(folder: Path, text: str, **sets: str) -> BuildSpec:
    (folder / "small.yaml").write_text(text)
    recipe = load("small", sets, (folder,))
    return BuildSpec("small", recipe, Medium("ab" * 32), {"small.ks.j2": "text\ntimezone {{ timezone }}\n"}, "mac")


def digests(built: BuildSpec) -> dict[str, str]:
    stages = (kickstart.STAGE, fetch.STAGE, remaster.STAGE, install.STAGE, verify.STAGE)
    return {one.name: digest(replace(one, version=1, needs=()), one.inputs(built), {}) for one in stages}


def test_a_recipe_that_names_no_release_keeps_its_digests(tmp_path: Path, recipe_text: str) -> None:
    assert digests(spec(tmp_path, recipe_text)) == BEFORE
    assert digests(spec(tmp_path, recipe_text + "release: el7\n")) == BEFORE


def test_another_release_changes_what_depends_on_it(tmp_path: Path, recipe_text: str) -> None:
    found = digests(spec(tmp_path, recipe_text, release="el8"))
    assert {name for name, one in found.items() if one != BEFORE[name]} == {"kickstart", "remaster"}
    found = digests(spec(tmp_path, recipe_text, release="el9"))
    assert {name for name, one in found.items() if one != BEFORE[name]} == {
        "kickstart",
        "remaster",
        "install",
        "verify",
    }


def test_a_release_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path, recipe_text: str) -> None:
    (said,) = faults(tmp_path, recipe_text + "release: el11\n")
    assert said == "small.yaml:19: release: 'el11' is none of 'el7', 'el8', 'el9', 'el10', 'fedora'"


@pytest.mark.parametrize(
    ("release", "delivery"),
    [("el7", "remaster"), ("el8", "seed"), ("el9", "seed"), ("el10", "seed"), ("fedora", "seed")],
)
def test_the_delivery_is_the_releases_unless_the_recipe_says_so(
    tmp_path: Path, recipe_text: str, release: str, delivery: str
) -> None:
    assert remaster.inputs(spec(tmp_path, recipe_text, release=release)).delivery == delivery
    chosen = spec(tmp_path, recipe_text, **{"release": release, "media.delivery": "remaster"})
    assert remaster.inputs(chosen).delivery == "remaster"


# -- the kickstart


@pytest.mark.parametrize(
    ("template", "handlers"),
    [("centos7-minimal.ks.j2", ["RHEL7"]), ("el-minimal.ks.j2", ["RHEL8", "RHEL9", "RHEL10", "F43", "F44"])],
)
def test_every_shipped_template_is_accepted_by_the_handlers_of_its_releases(template: str, handlers: list[str]) -> None:
    shipped = {path.name for path in TEMPLATES.glob("*.ks.j2")}
    assert shipped == {one.template for one in RELEASES.values()}
    wanted = {one.handler for one in RELEASES.values() if one.template == template}
    assert wanted <= set(handlers)
    texts = render.collect(template, [TEMPLATES])
    for packages in (["tree"], ["cloud-init"]):
        text = render.render(texts, template, {**VARS, **OWN, "packages": packages})
        for handler in handlers:
            # Not even a warning.
            assert lint.lint(text, replace(RELEASES["el9"], handler=handler)) == [], handler


def test_the_checker_is_the_releases_own() -> None:
    text = "auth --enableshadow\ntext\n"
    assert [str(one.severity) for one in lint.lint(text, RELEASES["el9"])] == ["warning"]
    (refused,) = lint.lint(text, RELEASES["el10"])
    assert (refused.severity, refused.line) == ("error", 1)
    key = 'sshkey --username=root "ssh-ed25519 AAAA x"\n'
    assert lint.lint(key, RELEASES["el7"]) == lint.lint(key, RELEASES["el9"]) == []
    assert lint.lint("timesource --ntp-server=x\n", RELEASES["el7"]) != []


@pytest.mark.parametrize("name", sorted(find_all((PIPELINES,))))
def test_every_shipped_recipe_renders_a_kickstart_that_its_release_accepts(name: str, tmp_path: Path) -> None:
    recipe = load(name, {}, (PIPELINES,))
    text = kickstart_preview.preview(recipe, Settings(tmp_path, (PIPELINES,), (TEMPLATES,)))
    assert recipe.kickstart.template == recipe.facts.template
    assert [one for one in lint.lint(text, recipe.facts) if one.severity == "error"] == []
    machine = recipe.machine
    room = Room(machine.memory, recipe.disk.size, machine.firmware, release=recipe.facts)
    assert preflight.check(parse.read(text), None, room) == []


# -- the medium


def medium(product: str, version: str) -> MediumFacts:
    return MediumFacts(
        volume_id="V",
        application_id="",
        product=product,
        family="F",
        version=version,
        arch="x86_64",
        volume_size=1,
        file_size=1,
        files=1,
        names="rock ridge",
        joliet=True,
        boot=(),
        mbr=False,
        isohybrid=False,
        gpt=None,
        md5=None,
        md5_verdict=None,
        packages=None,
        groups=None,
        is_rehearsal=False,
    )


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("el7", "7"),
        ("el8", "8.10"),
        ("el9", "9.8"),
        ("el9", "9"),
        ("el10", "10.1"),
        ("el10", "10-stream"),
        ("fedora", "44"),
    ],
)
def test_a_medium_of_the_release_passes(release: str, version: str) -> None:
    preflight.require_release(medium("X", version), RELEASES[release])
    assert of_version(version) == RELEASES[release]
    for other in RELEASES.keys() - {release}:
        with pytest.raises(MediumError):
            preflight.require_release(medium("X", version), RELEASES[other])


def test_a_medium_of_another_release_is_named_before_anything_starts() -> None:
    with pytest.raises(MediumError, match=r"^the medium is Rocky Linux 10\.1, the recipe says release: el9$") as caught:
        preflight.require_release(medium("Rocky Linux 10.1", "10.1"), RELEASES["el9"])
    assert caught.value.exit_code == 4
    assert "release: el10" in caught.value.hint
    with pytest.raises(MediumError, match=r"^the medium is Fedora 41, the recipe says release: fedora$"):
        preflight.require_release(medium("Fedora", "41"), RELEASES["fedora"])
    preflight.require_release(medium("", ""), RELEASES["el9"])


def test_a_recipe_without_a_sum_says_how_it_gets_one(tmp_path: Path) -> None:
    settings = Settings(tmp_path, (PIPELINES,), (TEMPLATES,))
    recipe = load("rocky9-minimal", {}, (PIPELINES,))
    with pytest.raises(RecipeError, match="names no sha256") as caught:
        resolve(recipe, None, Store(settings.store), settings, peek=True)
    assert caught.value.hint == "builder recipes new my-rocky9-minimal --like rocky9-minimal --media FILE"


def test_a_rehearsal_medium_is_one_for_each_release(tmp_path: Path) -> None:
    settings = Settings(tmp_path, (PIPELINES,), (TEMPLATES,))
    objects = {}
    for name in ("centos7-minimal", "rocky8-minimal", "rocky9-minimal", "almalinux10-minimal", "fedora-server"):
        recipe = load(name, {}, (PIPELINES,))
        asked = resolve(recipe, "rehearsal", Store(settings.store), settings, peek=True).spec
        given = fetch.inputs(asked)
        assert (asked.name, given.shape) == (f"{name}-rehearsal", recipe.release)
        # What was built before there were shapes stays up to date.
        assert ("shape" in given.model_dump(mode="json")) is (recipe.release != "el7")
        objects[name] = fetch.object_of(given)
    assert len(set(objects.values())) == len(objects)


def test_no_shipped_recipe_of_a_later_release_claims_a_sum() -> None:
    for name, path in find_all((PIPELINES,)).items():
        recipe = load(str(path), {}, ())
        assert recipe.has_medium == (recipe.release == "el7"), name
        assert recipe.media.sources[0].urls


def test_a_night_leaves_out_what_cannot_be_built_yet_unless_it_is_named() -> None:
    assert [build.name for build in find_builds((), (PIPELINES,))] == ["centos7-cloud", "centos7-minimal"]
    assert [build.name for build in find_builds(("rocky9-minimal",), (PIPELINES,))] == ["rocky9-minimal"]


def test_a_source_needs_a_sum_or_a_place(tmp_path: Path, recipe_text: str) -> None:
    (said,) = faults(tmp_path, recipe_text, {"media.sources": "[{}]"})
    assert "a source needs a sha256, or urls" in said
    spec(tmp_path, recipe_text, **{"media.sources": f"[{{sha256: {'cd' * 32}}}]"})


@pytest.mark.parametrize("host", ["download.rockylinux.org", "rockylinux.org"])
def test_signed_by_is_refused_where_the_vendor_signs_nothing(tmp_path: Path, recipe_text: str, host: str) -> None:
    sets = {"media.sources": f"[{{sha256: {'cd' * 32}, urls: ['https://{host}/a.iso']}}]", "media.signed_by": "A" * 40}
    (said,) = faults(tmp_path, recipe_text, sets)
    assert "media.signed_by: " in said or "media.signed_by=" in said
    assert "Rocky Linux signs no list of checksums: the sha256 decides" in said
    sets["media.sources"] = sets["media.sources"].replace(host, f"{host}.mirror.example")
    spec(tmp_path, recipe_text, **sets)


@pytest.mark.parametrize(("given", "fits"), [("CHECKSUM", True), ("https://x.invalid/a", True), ("../x", False)])
def test_a_list_of_checksums_is_a_name_or_a_url(tmp_path: Path, recipe_text: str, given: str, fits: bool) -> None:
    if fits:
        built = spec(tmp_path, recipe_text, **{"media.checksums": given})
        assert fetch.inputs(built).checksums == given
    else:
        assert "is no list of checksums" in faults(tmp_path, recipe_text, {"media.checksums": given})[0]


# -- the machine

KICKSTART = "cdrom\nreqpart\npart / --fstype=xfs --size={} --grow\npoweroff\n"


@pytest.mark.parametrize(("release", "least"), [("el7", 520), ("el8", 1536), ("el9", 2048), ("el10", 2048)])
def test_memory_is_what_the_release_takes(release: str, least: int) -> None:
    for memory, fits in ((least, True), (least - 1, False)):
        room = Room(memory << 20, 10 << 30, "bios", release=RELEASES[release])
        found = preflight.check(parse.read(KICKSTART.format(2048)), None, room)
        assert (found == []) is fits
        assert all(f"of {RELEASES[release].title} wants {least} MiB" in one.text for one in found)


@pytest.mark.parametrize(
    ("release", "size"), [("el7", 200), ("el8", 200), ("el9", 200), ("el10", 500), ("fedora", 500)]
)
def test_the_efi_partition_is_what_reqpart_takes(release: str, size: int) -> None:
    room = Room(2 << 30, 8 << 30, "uefi", release=RELEASES[release])
    most = 8192 - 2 - size
    assert preflight.check(parse.read(KICKSTART.format(most)), None, room) == []
    (said,) = preflight.check(parse.read(KICKSTART.format(most + 1)), None, room)
    assert said.text.endswith(f"/boot/efi {size} MiB")


def test_a_cpu_that_is_too_old_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    flags = " ".join(sorted(FLAGS["x86-64-v2"]))
    path.write_text(f"processor\t: 0\nmodel name\t: Old Xeon 5500\nflags\t\t: fpu vmx {flags}\n\nprocessor\t: 1\n")
    found = host_facts.cpu(path)
    with pytest.raises(HostError, match="level x86-64-v3, and this host's Old Xeon 5500 is older") as caught:
        require_level("x86-64-v3", found)
    assert "avx2" in caught.value.details
    assert "sse4_2" not in caught.value.details
    assert "--accel tcg" in caught.value.hint
    require_level("x86-64-v2", found)
    require_level("x86-64", found)


def test_emulation_brings_a_cpu_of_its_own() -> None:
    given = InstallInputs(**MACHINE, disk_size=1, cpu="x86-64-v3")  # type: ignore[arg-type]
    require_cpu(given, HostOptions(accel="tcg"))


def test_a_build_for_older_cpus_says_so_in_the_recipe(tmp_path: Path, recipe_text: str) -> None:
    assert install.inputs(spec(tmp_path, recipe_text, release="el10")).cpu == "x86-64-v3"
    older = spec(tmp_path, recipe_text, **{"release": "el10", "machine.cpu": "x86-64-v2"})
    assert install.inputs(older).cpu == verify.inputs(older).cpu == "x86-64-v2"
