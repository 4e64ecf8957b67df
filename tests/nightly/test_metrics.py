"""Metrics of nightly runs, as Prometheus reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from builder import images
from builder.errors import RecipeError
from builder.images import VerificationResult, verification_record
from builder.images.verification_record import Finding, Status
from builder.nightly import metrics
from builder.nightly.record import Fault, NightlyRun, StageTime
from tests.nightly.test_report import failed, published
from tests.nightly.test_report import night as example_night

RULES = Path(__file__).parents[2] / "docs" / "prometheus-rules.yml"
Samples = dict[tuple[str, ...], float]


def samples(text: bytes) -> Samples:
    """Values by name and labels, as Prometheus' own parser finds them."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def image(catalogue: Path, name: str, created: datetime) -> images.Image:
    """A published image of 1,000 bytes."""
    disk = catalogue.parent / "disk"
    disk.write_bytes(name.encode().ljust(1000))
    made = images.publish(catalogue, name, {f"{name}.qcow2": disk}, {})
    manifest = made.path / images.MANIFEST
    manifest.chmod(0o644)
    manifest.write_text(re.sub(r'"created": "[^"]+"', f'"created": "{created.isoformat()}"', manifest.read_text()))
    return made


def bad_night(folder: Path, **facts: object) -> NightlyRun:
    """A night that begins at 2026-11-23 01:02:03 and ends four minutes later."""
    fault = Fault(kind="install", exit_code=5, brief="a | bad\nend", stage="install", cause='kernel "panic"\n')
    bad = failed(folder).model_copy(update={"fault": fault, **facts})
    return example_night(folder, results=[published("alpha", 2 << 30, 31.0), bad])


STARTED = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC).timestamp()


def test_a_night_in_numbers(tmp_path: Path) -> None:
    night = bad_night(tmp_path)
    night.results[0].stages.append(StageTime(stage="fetch", action="reuse"))
    found = samples(metrics.render(night, [], tmp_path / "images"))
    assert found["builder_nightly_end_timestamp_seconds",] == STARTED + 240
    assert found["builder_nightly_exit_code",] == 5
    assert found["builder_image_last_success_timestamp_seconds", "image=alpha"] == STARTED + 90
    assert found["builder_image_size_bytes", "image=alpha"] == 2 << 30
    assert found["builder_stage_duration_seconds", "image=alpha", "stage=install"] == 60
    assert ("builder_stage_duration_seconds", "image=alpha", "stage=fetch") not in found
    assert found["builder_build_verdict", "image=alpha", "verdict=published"] == 1
    assert found["builder_build_verdict", "image=alpha", "verdict=failed"] == 0
    assert found["builder_build_verdict", "image=broken", "verdict=failed"] == 1
    assert found["builder_build_duration_seconds", "image=broken"] == 45
    labels = ('cause=kernel "panic"\n', "image=broken", "kind=install", "stage=install")
    assert found["builder_build_failure_info", *labels] == 1
    # Nothing is known of an image that there never was.
    assert found["builder_image_last_success_timestamp_seconds", "image=broken"] == 0
    assert ("builder_image_size_bytes", "image=broken") not in found


def test_the_last_success_is_known_from_the_catalogue(tmp_path: Path) -> None:
    made = image(tmp_path / "images", "broken", datetime(2026, 11, 20, tzinfo=UTC))
    published_at = datetime(2026, 11, 20, tzinfo=UTC).timestamp()
    found = samples(metrics.render(bad_night(tmp_path), [], tmp_path / "images"))
    assert found["builder_image_last_success_timestamp_seconds", "image=broken"] == published_at
    assert found["builder_image_created_timestamp_seconds", "image=broken"] == published_at
    assert found["builder_image_age_seconds", "image=broken"] == STARTED + 240 - published_at
    assert found["builder_image_size_bytes", "image=broken"] == 1000

    # It is proved again, then found corrupt: the first of these is the last success.
    for day, status in (("21", Status.PASSED), ("22", Status.FAILED)):
        finding = Finding("broken.qcow2", status, "sha256")
        verification_record.record(
            made.path, VerificationResult("broken", made.version, f"2026-11-{day}T00:00:00+00:00", (finding,))
        )
    found = samples(metrics.render(bad_night(tmp_path), [], tmp_path / "images"))
    proved = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    assert found["builder_image_last_success_timestamp_seconds", "image=broken"] == proved


def test_the_last_success_is_known_from_earlier_nights(tmp_path: Path) -> None:
    """As on a farm, whose workers keep the images."""
    good = published("broken", 7, 1.0)
    assert good.image is not None
    good.image.created = "2026-11-21T00:00:00+00:00"
    earlier = example_night(tmp_path, started=datetime(2026, 11, 21, tzinfo=UTC), results=[good])
    found = samples(metrics.render(bad_night(tmp_path), [earlier], tmp_path / "images"))
    begun = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    assert found["builder_image_last_success_timestamp_seconds", "image=broken"] == begun + 90
    assert found["builder_image_age_seconds", "image=broken"] == STARTED + 240 - begun
    assert found["builder_image_size_bytes", "image=broken"] == 7


def test_the_file_is_whole_and_readable_for_the_exporter(tmp_path: Path) -> None:
    path = tmp_path / "builder.prom"
    path.write_text("old")
    path.chmod(0o600)
    metrics.write(path, bad_night(tmp_path), [], tmp_path / "images")
    assert samples(path.read_bytes())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.glob("*builder.prom*")] == ["builder.prom"]


def test_a_file_that_cannot_be_written_or_read_is_found_before_the_night(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no folder"):
        metrics.check(tmp_path / "nowhere" / "builder.prom")
    assert metrics.check(tmp_path / "builder.prom") == []
    assert "only reads files that end in .prom" in metrics.check(tmp_path / "builder.txt")[0]


def test_alert_rules_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    names = {name for name, *_ in samples(metrics.render(bad_night(tmp_path), [], tmp_path / "images"))}
    expressions = [line for line in RULES.read_text().splitlines() if "expr:" in line]
    asked = {name for line in expressions for name in re.findall(r"builder_\w+", line)}
    assert asked
    assert asked <= names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_has_no_complaint(tmp_path: Path) -> None:
    text = metrics.render(bad_night(tmp_path), [], tmp_path / "images")
    for words, given in ((["check", "metrics"], text), (["check", "rules", str(RULES)], b"")):
        done = subprocess.run(["promtool", *words], input=given, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
