"""The report of a nightly run, as a browser, a CI system and a reader of plain text see it."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from builder.nightly import builds
from builder.nightly.record import Fault, ImageFacts, NightlyRun, Notification, Result, StageTime, exit_code, load_runs
from builder.nightly.report import junit, markdown, retention, write
from builder.nightly.worker import skipped
from tests.nightly.browser import browser
from tests.nightly.pictures import red_square

ROWS = "[...document.querySelectorAll('#builds tbody tr')].map(row => row.dataset.name).join()"
OPEN = "[...document.querySelectorAll('details.part[open]')].map(one => one.id).join()"
SEEN = """[...document.querySelectorAll('th button')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 0 && box.left >= 0 && box.right <= innerWidth;
}).length"""


def published(name: str, size: int, boot: float, start: float = 0) -> Result:
    stages = [
        StageTime(stage="install", action="run", reason="first run", start=start, seconds=60),
        StageTime(stage="verify", action="run", reason="first run", start=start + 60, seconds=30),
    ]
    image = ImageFacts(name=name, version="0123456789ab", sha256="0" * 64, size=size, boot=boot)
    return Result(
        name=name, pipeline=name, verdict="published", why="first run", stages=stages, image=image, seconds=90
    )


def failed(folder: Path) -> Result:
    run = folder / "runs" / "20261123-010203-abcd"
    run.mkdir(parents=True, exist_ok=True)
    (run / "screenshot.png").write_bytes(red_square())
    (run / "a #file.log").write_text("evidence")
    return Result(
        name="broken",
        pipeline="broken",
        verdict="failed",
        exit_code=5,
        start=90,
        seconds=45,
        folder=str(run),
        evidence=["a #file.log", "screenshot.png"],
        picture="screenshot.png",
        console="booting\n<script>document.title = 'taken'</script>\n```\nPane is dead",
        stages=[StageTime(stage="install", action="run", start=90, seconds=45, failed=True)],
        fault=Fault(
            kind="install",
            exit_code=5,
            brief="a | <b>bad</b> end",
            details="]]>\x1b[31m\x00",
            hint="look",
            stage="install",
        ),
    )


def night(folder: Path, *, started: datetime | None = None, results: list[Result] | None = None) -> NightlyRun:
    began = started or datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    changed = published("alpha", 2 << 30, 31.0)
    changed.difference = {
        "old": {"version": "ba9876543210"},
        "packages": {"added": ["tree 2"], "removed": [], "updated": []},
        "services": {"added": [], "removed": ["kdump.service"], "updated": []},
        "values": {"kernel": {"old": "3", "new": "4"}},
    }
    found = results if results is not None else [changed, failed(folder), published("beta", 1 << 30, 9.0, 135)]
    return NightlyRun(
        date=f"{began:%Y-%m-%d}",
        started=began.isoformat(),
        ended=(began + timedelta(seconds=240)).isoformat(),
        seconds=240,
        host="toy.example",
        builder="1",
        jobs=1,
        jobs_why="cores",
        exit_code=exit_code(found),
        results=found,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with two nights before it."""
    place = tmp_path_factory.mktemp("artifacts")
    for day in (21, 22):
        before = night(place, started=datetime(2026, 11, day, tzinfo=UTC), results=[published("alpha", day << 20, day)])
        write.write(place / "reports", before)
    return write.write(place / "reports", night(place))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_in_a_browser(folder: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        page.open((folder / "index.html").as_uri())
        assert page.evaluate("document.title") == "Nightly run of 2026-11-23: 3 builds: 2 published, 1 failed"
        # What failed comes first; then as asked for, up and down.
        assert page.evaluate(ROWS) == "broken,alpha,beta"
        for key, order in (("name", "alpha,beta,broken"), ("size", "broken,beta,alpha"), ("size", "alpha,beta,broken")):
            page.evaluate(f"document.querySelector('[data-key={key}]').click()")
            assert page.evaluate(ROWS) == order
        assert page.evaluate("document.querySelector('[aria-sort=descending]').textContent") == "Size"
        assert (
            page.evaluate("[...document.images].every(one => one.naturalWidth === 64) && document.images.length") == 1
        )
        assert page.evaluate("document.querySelectorAll('.plot polyline').length") == 2
        assert page.evaluate("document.querySelectorAll('.time rect').length") == 5
        assert page.evaluate("[...document.querySelectorAll('.ticks i')].map(one => one.textContent).join()") == (
            "0 m,1 m,2 m,3 m"
        )
        # What failed is open to read; the rest opens for who follows its link.
        assert page.evaluate(OPEN) == "build-1"
        page.evaluate("document.querySelector('#builds a[href=\"#build-2\"]').click()")
        page.settle()
        assert page.evaluate(OPEN) == "build-1,build-2"

        paper = {}
        for scheme in ("light", "dark"):
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            paper[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            for width in (1200, 360):
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=800,
                    deviceScaleFactor=1,
                    mobile=width < 500,
                )
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                # Also a phone sorts: the heads are in sight.
                assert page.evaluate(SEEN) == 6
                page.screenshot(tmp_path / f"{scheme}-{width}.png")
        assert paper["light"] != paper["dark"]

        outside = [one for one in page.requests if not one.startswith(("file:", "data:", "about:"))]
        assert (page.complaints, outside) == ([], [])
        links = page.evaluate("[...document.querySelectorAll('.links a')].map(one => one.href)")
    assert len(links) == 2
    for link in links:
        assert link.startswith("file:///")
    evidence = folder.parents[1] / "runs" / "20261123-010203-abcd"
    assert links[0] == (evidence / "a #file.log").as_uri()


def test_the_same_as_markdown(folder: Path) -> None:
    text = (folder / write.TEXT).read_text()
    assert text.splitlines()[0] == "# Nightly run of 2026-11-23: 3 builds: 2 published, 1 failed"
    assert r"a \| \<b\>bad\</b\> end" in text
    # The console's own fence does not end the block.
    assert "````\nbooting\n" in text
    assert "## alpha: 1 package changed since ba9876543210" in text
    assert "+ tree 2" in text
    assert "services: - kdump.service" in text
    assert "kernel: 3 → 4" in text
    assert "\x1b" not in text


def test_the_same_as_junit(folder: Path) -> None:
    suite = ElementTree.parse(folder / write.XML).getroot()[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "0",
        "errors": "0",
    }
    [failure] = suite.iter("failure")
    assert failure.get("message") == "a | <b>bad</b> end"
    assert failure.get("type") == "install"
    assert (failure.text or "").startswith("]]>")


def test_the_newest_reports_stay(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    start = datetime(2026, 1, 1, 3, tzinfo=UTC)
    for day in range(3):
        for hour in (0, 12):
            write.write(reports, night(tmp_path, started=start + timedelta(days=day, hours=hour), results=[]))
    (reports / "notes").mkdir()
    assert retention.prune(reports, 3) == ["2026-01-01", "2026-01-01.2", "2026-01-02"]
    assert [run.date for run in load_runs(reports)] == ["2026-01-02.2", "2026-01-03", "2026-01-03.2"]
    assert (reports / "notes").is_dir()
    assert retention.prune(reports, 99) == []
    retention.prune(reports, 0)
    assert [run.date for run in load_runs(reports)] == ["2026-01-03.2"]


def test_records_with_the_old_words_are_still_read(tmp_path: Path) -> None:
    record = write.write(tmp_path / "reports", night(tmp_path)) / "night.json"
    old = record.read_text().replace('"verdict": "published"', '"verdict": "no news"', 1)
    record.write_text(old.replace('"verdict": "failed"', '"verdict": "rotten"'))
    (run,) = load_runs(tmp_path / "reports")
    assert [result.verdict for result in run.results] == ["unchanged", "corrupt", "published"]


def test_the_exit_code_sums_up(tmp_path: Path) -> None:
    good, bad = published("a", 1, 1.0), failed(tmp_path)
    other = bad.model_copy(update={"exit_code": 4})
    not_begun = good.model_copy(update={"verdict": "skipped"})
    assert [exit_code(one) for one in ([good], [good, bad], [bad, other], [bad, not_begun], [bad, bad])] == [
        0,
        5,
        10,
        5,
        5,
    ]


def test_packages_that_nobody_knows_are_not_said_to_be_unchanged() -> None:
    old = {"old": {"version": "ba98"}}
    assert markdown.changed({**old, "packages": {"added": [], "removed": [], "updated": []}}) == (
        "no packages changed since ba98"
    )
    assert markdown.changed({**old, "unknown": {"packages": ["ba98"]}}) == "the packages of ba98 are not known"


def test_an_empty_night_is_a_report_too(tmp_path: Path) -> None:
    nothing = night(tmp_path, results=[])
    assert "0 builds" in markdown.render(nothing)
    assert b'tests="0"' in junit.render(nothing)
    assert (write.write(tmp_path / "reports", nothing) / "index.html").is_file()


def test_a_rehearsal_is_marked_everywhere(tmp_path: Path) -> None:
    recipes = tmp_path / "pipelines"
    recipes.mkdir()
    (recipes / "torn.yaml").write_text("media: 3\n")
    (build,) = builds.find_builds((), (recipes,), rehearsal=True)
    result = skipped(build, "cut short")
    assert (result.name, result.rehearsal) == ("torn-rehearsal", True)
    folder = write.write(tmp_path / "reports", night(tmp_path, results=[result]))
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert all("torn-rehearsal" in text for text in texts.values())
    assert "<h1>Nightly run of 2026-11-23 (rehearsal)</h1>" in texts[write.PAGE]
    assert "not for use" in texts[write.PAGE]
    assert texts[write.TEXT].startswith("# Nightly run of 2026-11-23 (rehearsal): ")
    assert "not for use" in texts[write.TEXT]
    assert ElementTree.fromstring(texts[write.XML]).find(".//property[@name='rehearsal']") is not None
    assert json.loads(texts["night.json"])["results"][0]["rehearsal"] is True
    ordinary = write.write(tmp_path / "reports", night(tmp_path))
    assert not any("rehearsal)" in path.read_text() for path in ordinary.iterdir())


def test_a_report_is_written_again_with_what_became_of_messages(tmp_path: Path) -> None:
    first = night(tmp_path)
    folder = write.write(tmp_path / "reports", first)
    for path in folder.iterdir():
        path.chmod(0o640)
    sent = [Notification(to="json://a.example", delivered=False, why="<b>401</b>")]
    write.rewrite(folder, first.model_copy(update={"notifications": sent}), [])
    assert "json://a.example: not delivered: &lt;b&gt;401&lt;/b&gt;" in (folder / write.PAGE).read_text()
    assert r"json://a.example: not delivered: \<b\>401\</b\>" in (folder / write.TEXT).read_text()
    assert load_runs(tmp_path / "reports")[0].notifications == sent
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
