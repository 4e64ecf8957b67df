"""Budgets of an image: all excesses are reported at once, before anything reaches the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.errors import VerifyError
from builder.settings import BuildOptions, HostOptions, Paths
from builder.stage import Job, Ledger
from builder.stages import budget, publish, seal, verify
from builder.stages.budget import BudgetInputs
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from tests.conftest import Silent

pytestmark = pytest.mark.unit

MIB = 1 << 20


def shown(accel: str = "kvm", packages: int = 3, slower: float = 40.0) -> dict[str, Any]:
    names = [f"package-{number} 1-1" for number in range(packages)]
    twins = {
        role: {"role": role, "boot_seconds": seconds, "packages": names}
        for role, seconds in (("twin-a", 30.0), ("twin-b", slower))
    }
    return {"accel": accel, "twins": twins}


@pytest.mark.parametrize(
    ("allowed", "told"),
    [
        (BudgetInputs(), None),
        (BudgetInputs(size=100 * MIB, boot=40, packages=3), None),
        (BudgetInputs(size=100 * MIB - 1), f"size: 100.0 MiB ({100 * MIB} bytes), allowed 100.0 MiB ({100 * MIB - 1})"),
        (BudgetInputs(boot=39), "boot: root was in on twin-b after 40 s, allowed 39 s"),
        (BudgetInputs(packages=2), "packages: 3, allowed 2"),
    ],
)
def test_each_budget_is_held(allowed: BudgetInputs, told: str | None) -> None:
    if told is None:
        budget.require(allowed, 100 * MIB, shown())
        return
    with pytest.raises(VerifyError) as caught:
        budget.require(allowed, 100 * MIB, shown())
    assert caught.value.details == told


def test_all_excesses_are_told_at_once() -> None:
    with pytest.raises(VerifyError) as caught:
        budget.require(BudgetInputs(size=1, boot=1, packages=1), MIB, shown())
    assert caught.value.brief == "the image exceeds its budget: size, boot, packages"
    assert len(caught.value.details.splitlines()) == 3


def test_an_emulated_copy_may_take_longer() -> None:
    budget.require(BudgetInputs(boot=10), MIB, shown("tcg"))
    with pytest.raises(VerifyError) as caught:
        budget.require(BudgetInputs(boot=9), MIB, shown("tcg"))
    assert caught.value.details.endswith("allowed 36 s (9.0 s, stretched for TCG)")


def test_a_number_of_packages_that_nobody_told_is_no_small_one() -> None:
    with pytest.raises(VerifyError, match="exceeds its budget: packages"):
        budget.require(BudgetInputs(packages=5), MIB, shown(packages=0))


def test_what_costs_too_much_is_not_published(tmp_path: Path) -> None:
    needs = {"seal": tmp_path / "seal", "verify": tmp_path / "verify"}
    for folder in needs.values():
        folder.mkdir()
    (needs["seal"] / seal.FILE).write_bytes(b"disk")
    (needs["seal"] / seal.FACTS).write_text(json.dumps({"sha256": "0" * 64, "size": 4}))
    (needs["verify"] / verify.FILE).write_text(json.dumps(shown()))
    paths = Paths(tmp_path / "artifacts", (), ())
    given = {"name": "toy", "recipe": "toy", "rehearsal": False, "keep": 7, "secrets_of": "toy"}
    job = Job(
        run_id="test",
        digest="d" * 64,
        inputs=publish.PublishInputs(**given, budget=BudgetInputs(packages=1)),  # type: ignore[arg-type]
        needs=needs,
        digests={},
        out=tmp_path,
        scratch=tmp_path,
        evidence=tmp_path,
        paths=paths,
        host=HostOptions(),
        build=BuildOptions(),
        secrets=StoredSecrets(Store(tmp_path / ".store"), "toy"),
        progress=Silent(),
        ledger=Ledger(),
    )
    with pytest.raises(VerifyError) as caught:
        publish.run(job)
    assert caught.value.exit_code == 6
    assert not paths.images.exists()
