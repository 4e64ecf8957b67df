"""A small pipeline in the shape of the real one, whose stages write a few bytes and note that they ran."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder import images
from builder.errors import BuilderError, InstallError
from builder.pipeline.execute import Context, Outcome, execute
from builder.pipeline.plan import plan
from builder.settings import BuildOptions, Paths, Settings
from builder.stage import Inputs, Job, Ledger, Plan, Stage, Step
from builder.store.objects import recorded
from builder.store.store import Store
from builder.system.signals import one_interrupt


@dataclass(frozen=True)
class ToyOrder:
    """What the toy stages are made from; `fail` and `diary` are for the test and enter no digest."""

    name: str = "toy"
    vars: Mapping[str, str] = field(default_factory=lambda: {"hostname": "one"})
    packages: tuple[str, ...] = ("core",)


class FetchInputs(Inputs):
    medium: str = "vendor"


class KickstartInputs(Inputs):
    vars: dict[str, str]
    packages: tuple[str, ...]


class NoInputs(Inputs):
    pass


def _note(job: Job[Any], name: str) -> None:
    """One line a stage that was run, appended in one write so that many processes may do it."""
    diary = os.open(job.paths.artifacts / "diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(diary, f"{name}\n".encode())
    os.close(diary)
    if (job.paths.artifacts / f"fail-{name}").exists():
        (job.evidence / "console.log").write_text("Pane is dead\n")
        raise InstallError(f"{name} failed", "Pane is dead", "look at console.log")


def _fetch(job: Job[Any]) -> None:
    _note(job, "fetch")
    (job.out / "medium.iso").write_bytes(b"vendor's medium" * 100)


def _kickstart(job: Job[Any]) -> None:
    _note(job, "kickstart")
    file = job.out / "ks.cfg"
    file.write_text(f"{job.inputs.vars} {job.inputs.packages}")
    file.chmod(0o600)


def _install(job: Job[Any]) -> None:
    _note(job, "install")
    with job.ledger.spend("guest"):
        (job.scratch / "nvram").write_bytes(b"scratch")
        (job.out / "disk.raw").write_bytes((job.needs["kickstart"] / "ks.cfg").read_bytes() + os.urandom(16))


def _seal(job: Job[Any]) -> None:
    _note(job, "seal")
    (job.out / "disk.qcow2").write_bytes((job.needs["install"] / "disk.raw").read_bytes())


def _verify(job: Job[Any]) -> None:
    _note(job, "verify")
    (job.out / "proof.json").write_text('{"proof": true}\n')


def _publish(job: Job[Any]) -> None:
    _note(job, "publish")
    sealed = job.needs["seal"]
    image = images.publish(
        job.paths.images,
        "toy",
        {"toy.qcow2": sealed / "disk.qcow2", "proof.json": job.needs["verify"] / "proof.json"},
        {"run": job.run_id},
        {"toy.qcow2": recorded(sealed).files["disk.qcow2"].sha256 or ""},
    )
    (job.out / "version").write_text(image.version)


def _published(path: Path, paths: Paths) -> str | None:
    version = (path / "version").read_text()
    if (paths.images / "toy" / version / "manifest.json").exists():
        return None
    return f"version {version} is not in the catalogue"


def _kickstart_inputs(order: ToyOrder) -> KickstartInputs:
    return KickstartInputs(vars=dict(order.vars), packages=order.packages)


STAGES = (
    Stage("fetch", 1, (), lambda _: FetchInputs(), _fetch, "get the medium"),
    Stage("kickstart", 1, (), _kickstart_inputs, _kickstart, "write the kickstart", intermediate=True),
    Stage("install", 1, ("fetch", "kickstart"), lambda _: NoInputs(), _install, "install", intermediate=True),
    Stage("seal", 1, ("install",), lambda _: NoInputs(), _seal, "seal", frees_intermediates=True),
    Stage("verify", 1, ("seal",), lambda _: NoInputs(), _verify, "verify"),
    Stage("publish", 1, ("seal", "verify"), lambda _: NoInputs(), _publish, "publish", why_stale=_published),
)


def up_to(name: str, stages: tuple[Stage[Any], ...] = STAGES) -> tuple[Stage[Any], ...]:
    """The pipeline to the stage of this name."""
    return stages[: [stage.name for stage in stages].index(name) + 1]


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[tuple[str, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def beat(self, text: str) -> None:
        pass

    def planned(self, plan: Plan, run_id: str) -> None:
        self.events.append(("planned", f"{plan.name} {run_id}"))

    def started(self, step: Step) -> None:
        self.events.append(("started", step.stage.name))

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        assert seconds >= sum(ledger.seconds.values())
        self.events.append(("ended", step.stage.name))

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        assert seconds >= 0
        self.events.append(("failed", f"{step.stage.name}: {error}"))


class NoSecrets:
    """Secrets of a pipeline that has none."""

    root_password = "not used"
    root_crypt = "not used"

    def mac(self, text: str) -> str:
        return f"not used for {text}"


def settings_in(folder: Path, **more: Any) -> Settings:
    return replace(Settings(artifacts=folder / "artifacts", recipes=(), templates=()), **more)


def plan_in(
    folder: Path, order: ToyOrder | None = None, *, stages: tuple[Stage[Any], ...] = STAGES, **more: Any
) -> Plan:
    settings = settings_in(folder)
    return plan(stages, order or ToyOrder(), Store(settings.store), settings, **more)


def told(given: Plan) -> dict[str, str]:
    """`action: reason` by stage."""
    return {step.stage.name: f"{step.action}: {step.reason}" for step in given.steps}


def run_in(
    folder: Path,
    order: ToyOrder | None = None,
    *,
    stages: tuple[Stage[Any], ...] = STAGES,
    watcher: Watcher | None = None,
    keep_failed: bool = False,
    keep_intermediates: bool = False,
    **more: Any,
) -> Outcome:
    """Plan and execute in a folder of the test."""
    settings = settings_in(folder, keep_failed=keep_failed, keep_intermediates=keep_intermediates)
    settings.artifacts.mkdir(exist_ok=True)
    store = Store(settings.store)
    planned = plan(stages, order or ToyOrder(), store, settings, **more)
    context = Context(store, settings, BuildOptions(), NoSecrets())
    return execute(planned, context, watcher or Watcher(), argv=("run", "toy"))


def run_quietly(folder: Path) -> None:
    """A run in a process of its own that may fail without a word."""
    try:
        with one_interrupt():
            run_in(folder)
    except BuilderError:
        raise SystemExit(1) from None


def diary(folder: Path) -> list[str]:
    """Names of the stages that were run, in order."""
    path = folder / "artifacts" / "diary"
    return path.read_text().split() if path.exists() else []
