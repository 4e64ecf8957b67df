"""A recipe with a kickstart of one's own: how it is found, recorded, made and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.cli.state import search_path
from builder.errors import BuilderError, RecipeError
from builder.kickstart import rehearsed
from builder.pipeline import build, kickstart_preview
from builder.pipeline.build import Build
from builder.pipeline.draft import draft
from builder.settings import HostOptions, Settings
from builder.stage import Job, Ledger
from builder.stages import kickstart as stage
from builder.stages import publish
from builder.store.objects import Record
from tests.command import Ran
from tests.conftest import Silent

pytestmark = [pytest.mark.unit, pytest.mark.process]

KS = """\
text
lang en_US.UTF-8
keyboard us
timezone UTC
rootpw --plaintext secret12
user --name=web --password=hushhush --plaintext
network --bootproto=dhcp --device=ens3
zerombr
clearpart --all --initlabel --drives=vda
part / --fstype=xfs --size=2000 --grow --ondisk=vda
bootloader --location=mbr
reboot
%packages --ignoremissing
@core
%end
"""
RECIPE = """\
name: web
media:
  sources:
    - sha256: {sha}
      urls: [http://mirror.invalid/small.iso]
kickstart: {{file: web.ks{more}}}
"""
Make = Callable[..., Build]


class Noting(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Plan a build of `web.ks`; `more` goes into the recipe's section, `changes` are those of --set."""
    settings = Settings(
        tmp_path / "artifacts",
        (tmp_path / "pipelines", *search_path("pipelines")),
        (tmp_path / "kickstarts", *search_path("kickstarts")),
    )
    for folder in (tmp_path / "pipelines", tmp_path / "kickstarts"):
        folder.mkdir()

    def prepare(text: str = KS, more: str = "", **changes: str) -> Build:
        (tmp_path / "kickstarts" / "web.ks").write_text(text)
        (tmp_path / "pipelines" / "web.yaml").write_text(RECIPE.format(sha="ab" * 32, more=more))
        return build.prepare("web", changes, None, (), settings)

    return prepare


def job_of(planned: Build, folder: Path) -> Job[Any]:
    """A job of the stage `kickstart` of a planned build."""
    for name in ("out", "scratch", "evidence"):
        (folder / name).mkdir(exist_ok=True)
    step, context = planned.plan.steps[0], planned.context
    return Job(
        run_id="test",
        digest=step.digest,
        inputs=step.inputs,
        needs={},
        digests={},
        out=folder / "out",
        scratch=folder / "scratch",
        evidence=folder / "evidence",
        paths=context.settings,
        host=HostOptions(),
        build=context.build,
        secrets=context.secrets,
        progress=Noting(),
        ledger=Ledger(),
    )


def digest(planned: Build) -> str:
    return planned.plan.steps[0].digest


def refused(make: Make, text: str = KS, more: str = "") -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        make(text, more)
    return caught.value


def test_it_is_adapted_checked_and_kept_for_its_owner_alone(make: Make, tmp_path: Path) -> None:
    planned = make()
    job = job_of(planned, tmp_path)
    stage.run(job)
    file = job.out / stage.FILE
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o400
    assert f"rootpw --iscrypted {planned.context.secrets.root_crypt}\n" in text
    assert f'echo "BUILDER INSTALLED {job.digest}" > /dev/ttyS1\n%end\n' in text
    assert "user --name=web --password=hushhush --plaintext\n" in text
    notes = job.progress.notes  # type: ignore[attr-defined]
    assert notes[0].startswith("web.ks line 5: `rootpw ********` becomes `rootpw --iscrypted ********`: root logs in")
    assert [note.split(":")[0].split()[-1] for note in notes] == ["5", "7", "9", "10", "12", "16", "17", "18"]
    assert planned.context.secrets.root_crypt not in "".join(notes)


def test_no_record_holds_a_password(make: Make, tmp_path: Path) -> None:
    planned = make()
    job = job_of(planned, tmp_path)
    stage.run(job)
    record = json.dumps(job.inputs.model_dump())
    for kept in (record, (job.evidence / "kickstart.cfg").read_text(), "".join(job.progress.notes)):  # type: ignore[attr-defined]
        assert "secret12" not in kept
        assert "hushhush" not in kept
        assert planned.context.secrets.root_crypt not in kept


def test_every_byte_of_it_and_of_its_files_counts(make: Make, tmp_path: Path) -> None:
    (tmp_path / "kickstarts" / "more.ks").write_text("skipx\n")
    seen = [digest(make()), digest(make(KS.replace("hushhush", "hush")))]
    seen += [digest(make(KS.replace("zerombr", "zerombr # why"))), digest(make(more=", files: [more.ks]"))]
    (tmp_path / "kickstarts" / "more.ks").write_text("skipx \n")
    seen.append(digest(make(more=", files: [more.ks]")))
    assert len(set(seen)) == 5
    assert digest(make()) == seen[0]


def test_one_that_changes_under_the_run_is_refused(make: Make, tmp_path: Path) -> None:
    old, new = make(), make(KS.replace("hushhush", "hush"))
    job = job_of(old, tmp_path)
    object.__setattr__(job, "build", new.context.build)
    with pytest.raises(RecipeError, match=r"web\.ks was changed while the run was under way"):
        stage.run(job)


def test_two_disks_are_refused_when_it_is_planned(make: Make) -> None:
    fault = refused(make, KS.replace("part / ", "part /srv --size=9 --ondisk=vdb\npart / "))
    said = "2 disks are meant, vda (line 9) and vdb (line 10); the machine has one: leave the others out"
    assert (fault.brief, fault.details) == (f"web.ks cannot be adapted: line 10: {said}", "")
    both = refused(make, KS.replace("part / ", "mount /dev/sda3 /srv\npart /srv --size=9 --ondisk=vdb\npart / "))
    assert both.brief == "web.ks cannot be adapted: 2 faults"
    assert [line.partition(":")[0] for line in both.details.splitlines()] == ["line 11", "line 10"]


def test_without_adapting_it_has_to_bring_everything(make: Make) -> None:
    fault = refused(make, more=", adapt: false")
    assert fault.brief.startswith("web.ks, as it is: ")
    for wanted in (
        "no %post reports `BUILDER INSTALLED …` on /dev/ttyS1",
        "no %post installs the first-boot unit",
        "line 12: `reboot` ends the install; builder waits for a power-off",
        "line 9: `clearpart --drives`: the machine has no disk vda; its one disk is sda, or disk/by-id/*BUILDER-SYSTEM",
    ):
        assert wanted in fault.details


def test_missing_files_are_all_named_before_anything_starts(make: Make, tmp_path: Path) -> None:
    (tmp_path / "kickstarts" / "setup.sh").write_text("true\n")
    fault = refused(make, more=", files: [setup.hs, other.ks]")
    assert fault.brief == "2 files of the kickstart are missing"
    assert "setup.hs is in none of them; did you mean setup.sh?" in fault.details
    assert "other.ks is in none of them" in fault.details


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KS.replace("@core", "@core\n%include more.ks"), "%include more.ks: no %pre makes this file"),
        (KS.replace("%packages --ignoremissing\n@core\n%end\n", ""), "there is no %packages section"),
        (KS.replace("timezone UTC", "timezone UCT+1"), "timezone: UCT+1 is not known"),
        (KS.replace("bootloader --location=mbr", "bootloader --location=none"), "without a boot loader"),
        (KS.replace("zerombr", "repo --name=e --baseurl=http://m/e\nzerombr"), "`repo` needs a network"),
    ],
)
def test_what_can_be_known_is_refused_in_a_second(make: Make, tmp_path: Path, text: str, said: str) -> None:
    job = job_of(make(text), tmp_path)
    with pytest.raises(RecipeError) as caught:
        stage.run(job)
    assert said in caught.value.brief
    assert caught.value.brief.startswith("web.ks, adapted: ")
    assert caught.value.details == ""
    assert list(job.out.iterdir()) == []


def test_all_that_is_wrong_is_told_at_once_with_the_way_to_a_network(make: Make, tmp_path: Path) -> None:
    text = KS.replace("timezone UTC", "timezone UCT+1").replace(
        "zerombr", "repo --name=e --baseurl=http://m/e\nzerombr"
    )
    job = job_of(make(text), tmp_path)
    with pytest.raises(RecipeError) as caught:
        stage.run(job)
    assert caught.value.brief == "web.ks, adapted: 2 faults"
    assert [line.partition(":")[0] for line in caught.value.details.splitlines()] == ["line 4", "line 8"]
    assert "--set install.network=user" in caught.value.hint


def test_with_a_network_repositories_may_be_used(make: Make, tmp_path: Path) -> None:
    text = KS.replace("zerombr", "url --url=http://m/os\nrepo --name=e --baseurl=http://m/e\nzerombr")
    planned = make(text, **{"install.network": "user"})
    job = job_of(planned, tmp_path)
    stage.run(job)
    assert "url --url=http://m/os\nrepo --name=e --baseurl=http://m/e\n" in (job.out / stage.FILE).read_text()
    steps = {step.stage.name: step for step in planned.plan.steps}
    assert steps["install"].inputs.model_dump()["network"] == "user"
    assert steps["install"].digest != {s.stage.name: s for s in make(text).plan.steps}["install"].digest


def test_the_manifest_says_whether_the_install_was_hermetic() -> None:
    def record(name: str, **inputs: object) -> Record:
        return Record.model_construct(stage=name, inputs=inputs)

    assert publish.hermetic({"install": record("install", network="none")})
    assert not publish.hermetic({"install": record("install", network="nat")})
    assert not publish.hermetic({"install": record("install", network="none"), "provision": record("provision")})


def test_files_that_come_along_are_in_the_object(make: Make, tmp_path: Path) -> None:
    (tmp_path / "kickstarts" / "more.ks").write_text("skipx\n")
    (tmp_path / "kickstarts" / "setup.bin").write_bytes(bytes(range(256)))
    job = job_of(make(KS.replace("zerombr", "%include more.ks\nzerombr"), ", files: [more.ks, setup.bin]"), tmp_path)
    stage.run(job)
    assert stage.beside(job.out) == {"more.ks": b"skipx\n", "setup.bin": bytes(range(256))}
    assert "%include /run/install/more.ks\n" in (job.out / stage.FILE).read_text()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (job.out / stage.BESIDE).rglob("*"))


def test_an_included_file_is_not_changed_and_so_must_need_no_change(make: Make, tmp_path: Path) -> None:
    (tmp_path / "kickstarts" / "more.ks").write_text("skipx\nreboot\npart /x --size=9 --ondisk=vda\n")
    job = job_of(make(KS.replace("zerombr", "%include more.ks\nzerombr"), ", files: [more.ks]"), tmp_path)
    with pytest.raises(RecipeError, match="an included file has what builder must adapt") as caught:
        stage.run(job)
    assert [line.split(": ")[0] for line in caught.value.details.splitlines()] == ["more.ks:2", "more.ks:3"]


def test_a_template_of_ones_own_is_filled_in_and_adapted(make: Make, tmp_path: Path) -> None:
    (tmp_path / "kickstarts" / "web.ks.j2").write_text(KS.replace("timezone UTC", "timezone {{ zone }}"))
    planned = make(**{"kickstart.file": "web.ks.j2", "kickstart.vars": "{zone: Asia/Tokyo}"})
    job = job_of(planned, tmp_path)
    stage.run(job)
    assert "timezone Asia/Tokyo\n" in (job.out / stage.FILE).read_text()
    assert "\npoweroff\n" in (job.out / stage.FILE).read_text()


def test_nothing_is_filled_into_a_plain_file(make: Make, tmp_path: Path) -> None:
    script = "%post\necho '{{ zone }} {% raw %}'\n%end\n"
    job = job_of(make(KS + script), tmp_path)
    stage.run(job)
    assert script in (job.out / stage.FILE).read_text()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{vars: {a: b}}", "kickstart.template: is missing (or `file`"),
        ("{template: a.ks.j2, file: b.ks}", "kickstart.file: has no use beside template"),
        ("{template: a.ks.j2, adapt: false}", "kickstart.adapt: has no use beside template"),
        ("{file: b.ks, vars: {a: b}}", "kickstart.vars: a kickstart is filled in only if its name ends with .j2"),
        ("{file: b.ks, files: [ks.cfg]}", "kickstart.files: ks.cfg: the kickstart itself is on the medium"),
        ("{file: ../b.ks}", "kickstart.file: '../b.ks' is no file name"),
    ],
)
def test_faults_of_the_section(make: Make, section: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make(kickstart=section)
    assert said in caught.value.details


def test_a_draft_takes_what_the_kickstart_needs(tmp_path: Path) -> None:
    (tmp_path / "My Server.ks").write_text("part / --size=20000\n")
    settings = Settings(tmp_path / "artifacts", search_path("pipelines"), search_path("kickstarts"))
    odd = draft(tmp_path / "My Server.ks", None, None, settings)
    assert odd.name == "my-server"
    assert build.load(odd, {}, settings)[0].kickstart.file == "My Server.ks"
    (tmp_path / "Web_7.ks").write_text("part / --size=20000\n%include users.ks\n%include /tmp/x\n")
    (tmp_path / "users.ks").write_text("skipx\n")
    made = draft(tmp_path / "Web_7.ks", None, None, settings)
    assert (made.name, made.files) == ("web_7", ("users.ks",))
    assert "disk: {size: 21GiB}" in made.text
    assert "vault.centos.org" in made.text
    with pytest.raises(BuilderError, match="no such file"):
        draft(tmp_path / "Web_7.ks", "web", "absent.iso", settings)


def test_what_the_rehearsal_cannot_do_is_told_before_there_is_a_medium(tmp_path: Path) -> None:
    (tmp_path / "web.ks").write_text(KS.replace("zerombr\n", "zerombr\nraid / --level=1 --device=md0 raid.1 raid.2\n"))
    settings = Settings(tmp_path / "artifacts", search_path("pipelines"), search_path("kickstarts"))
    chosen, settings = build.load(draft(tmp_path / "web.ks", None, None, settings), {}, settings)
    with pytest.raises(
        RecipeError, match=r"line \d+: the rehearsal cannot carry out raid: it makes no RAID arrays"
    ) as caught:
        rehearsed.require(kickstart_preview.preview(chosen, settings))
    assert (caught.value.details, caught.value.hint) == ("", "give the vendor's medium: --media FILE.iso")


def test_adapting_knows_the_release(builder: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "ks.cfg").write_text(KS + "timesource --ntp-server=ntp.example.com\n")
    assert "Unknown command: timesource" in builder("kickstart", "adapt", "ks.cfg").stderr
    assert "timesource" not in builder("kickstart", "adapt", "ks.cfg", "--release", "el9").stderr


def test_commands(builder: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "ks.cfg").write_text(KS)
    done = builder("kickstart", "adapt", "ks.cfg")
    assert done.returncode == 0
    assert done.stdout.startswith("text\nlang en_US.UTF-8\n")
    assert "ks.cfg:12: 'reboot' becomes 'poweroff': " in done.stderr
    assert "secret12" not in done.stdout + done.stderr
    (tmp_path / "far.cfg").write_text(f"{KS.replace('UTC', 'UCT+1')}repo --name=e --baseurl=http://m/e\n")
    far = builder("kickstart", "adapt", "far.cfg").stderr
    assert "far.cfg:4: a run would be refused: timezone: UCT+1 is not known" in far
    assert "far.cfg:16: a run would be refused: `repo` needs a network" in far
    facts = builder("kickstart", "adapt", "ks.cfg", "--json").document()
    assert facts["text"] == done.stdout
    assert {"line": 12, "was": "reboot", "now": "poweroff"}.items() <= facts["changes"][4].items()
    (tmp_path / "adapted.cfg").write_text(done.stdout)
    assert builder("kickstart", "lint", "adapted.cfg").returncode == 0

    assert builder("plan", "--kickstart", "ks.cfg", "--name", "web").stdout.splitlines()[1].split()[:2] == [
        "kickstart",
        "run",
    ]
    assert "exclude each other" in builder("plan", "web", "--kickstart", "ks.cfg").stderr
    assert "--name goes with --kickstart" in builder("plan", "web", "--name", "x").stderr
    assert not (tmp_path / "pipelines").exists()

    done = builder("recipes", "new", "web", "--kickstart", "ks.cfg", "--json")
    assert done.returncode == 0
    assert (tmp_path / "kickstarts" / "web.ks").read_text() == KS
    assert builder("plan", "web").returncode == 0
    assert builder("kickstart", "render", "web").stdout.count("rootpw --iscrypted ********") == 1
    done = builder("recipes", "new", "web", "--kickstart", "ks.cfg")
    assert (done.returncode, "exists" in done.stderr) == (2, True)
    assert builder("recipes", "new", "web", "--kickstart", "ks.cfg", "--force").returncode == 0
