"""A pipeline whose medium is a boot sector: the real install stage, run by the real pipeline, in a second."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import BuilderError
from builder.pipeline.execute import Context, execute
from builder.pipeline.plan import plan
from builder.settings import BuildOptions, Settings, Timeouts
from builder.stage import Inputs, Job, Stage
from builder.stages import install, remaster
from builder.stages.install import InstallInputs
from builder.store import runs
from builder.store.store import Store
from builder.system.retry import until
from builder.vm import connection
from tests.fakes.boot_sector import boot_sector, cd_image
from tests.pipeline.conftest import memory_path
from tests.pipeline.toys import Watcher

__all__ = ["Machines", "memory_path"]

PASSWORD = "a-password-for-nobody"
CRYPT = "$6$saltsaltsalt$" + "x" * 86
KICKSTART = f"rootpw --iscrypted {CRYPT}\nuser --name=a --plaintext --password=open-sesame\npoweroff\n"
MIB = 1 << 20


class SectorSecrets:
    """The secrets that the sector pipeline's kickstart holds."""

    root_password = PASSWORD
    root_crypt = CRYPT

    def mac(self, text: str) -> str:
        return f"not used for {text}"


class SectorInputs(Inputs):
    """What the guest does (arguments of `boot_sector`); `reports` makes it tell the right token."""

    sector: dict[str, Any]
    reports: bool


@dataclass(frozen=True)
class SectorOrder:
    """A guest to install; `sector` as `boot_sector` takes it, texts as str."""

    sector: dict[str, Any] = field(default_factory=dict)
    reports: bool = False
    disk_size: int = MIB


def _kickstart(job: Job[Any]) -> None:
    (job.out / "ks.cfg").write_text(KICKSTART)
    (job.out / "ks.cfg").chmod(0o600)


def _medium(job: Job[Any]) -> None:
    given = {key: value.encode() if key.startswith("tty") else value for key, value in job.inputs.sector.items()}
    if job.inputs.reports:
        given["ttys1"] = f"BUILDER INSTALLED {job.digests['kickstart']}\n".encode()
    cd_image(job.scratch / "cd.iso", boot_sector(**given))
    (job.scratch / "cd.iso").rename(job.out / remaster.FILE)


def _machine(order: SectorOrder) -> InstallInputs:
    return InstallInputs(
        vcpus=1, memory=64 * MIB, firmware="bios", devices="virtio", machine="q35", disk_size=order.disk_size
    )


STAGES = (
    Stage("kickstart", 1, (), lambda _: Inputs(), _kickstart, "write the kickstart"),
    Stage(
        "remaster",
        1,
        ("kickstart",),
        lambda order: SectorInputs(sector=order.sector, reports=order.reports),
        _medium,
        "make the medium",
    ),
    replace(install.STAGE, inputs=_machine),
)
GOOD = SectorOrder({"ttys0": "all is well\r\n"}, reports=True)


@dataclass
class Machines:
    """Runs sectors in one folder.

    Args:
        watcher: of the next run; a test may listen to its beats.
    """

    place: Path
    uri: str
    watcher: Watcher = field(default_factory=Watcher)

    @property
    def settings(self) -> Settings:
        return Settings(self.place / "artifacts", (), (), connect=self.uri, accel="tcg")

    def run(self, order: SectorOrder, stages: tuple[Stage[Any], ...] = STAGES, **timeouts: float) -> None:
        """One run of the pipeline, to the last stage's end."""
        settings = self.settings
        store = Store(settings.store)
        given = plan(stages, _Named(order), store, settings)
        context = Context(store, settings, BuildOptions(timeouts=Timeouts(**timeouts)), SectorSecrets())
        execute(given, context, self.watcher, clean=self.clean)

    def clean(self, run_id: str) -> None:
        """End the machines of a dead run."""
        with connection.connect(self.uri) as host:
            host.sweep(run_id)

    def fails(self, order: SectorOrder, **timeouts: float) -> tuple[BuilderError, Path]:
        """A run that must fail: the fault, and the run's folder."""
        with pytest.raises(BuilderError) as caught:
            self.run(order, STAGES, **timeouts)
        return caught.value, self.evidence()

    def evidence(self) -> Path:
        """The newest run's folder."""
        return self.settings.runs / runs.list_runs(self.settings.runs)[0].id

    def qemu(self) -> int:
        """Process id of the machine that runs in this folder."""
        word = str(self.place)

        def look() -> int | None:
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                except OSError:
                    continue
                if "qemu-system" in line.split("\0")[0] and word in line:
                    return int(entry.name)
            return None

        found = until(look, within=20)
        assert found is not None
        return found


class _Named:
    """The order with the name that a plan wants."""

    name = "sector"

    def __init__(self, order: SectorOrder) -> None:
        self.sector, self.reports, self.disk_size = order.sector, order.reports, order.disk_size


@pytest.fixture(scope="session")
def uri() -> Iterator[str]:
    """libvirt of this user, with its daemons up."""
    chosen = Settings(Path(), (), ()).uri
    with connection.connect(chosen):
        yield chosen


@pytest.fixture
def machines(uri: str) -> Iterator[Machines]:
    """A folder that QEMU's user can reach, with a pipeline in it; its last good image stays what it is."""
    place = Path(tempfile.mkdtemp(prefix="builder-fault-", dir="/var/tmp"))
    try:
        place.chmod(0o711)
        made = Machines(place, uri)
        disk = place / "good.qcow2"
        disk.write_bytes(b"the last good image")
        images.publish(made.settings.images, "sector", {"sector.qcow2": disk}, {})
        before = bytes_below(made.settings.images)
        yield made
        assert bytes_below(made.settings.images) == before
        assert images.load_image(made.settings.images, "sector").latest
    finally:
        shutil.rmtree(place)


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Every file below, byte for byte."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


class Acting(Watcher):
    """Does something at the first beat after the guest has spoken."""

    def __init__(self, act: Callable[[], None], said: str = "") -> None:
        super().__init__()
        self.act: Callable[[], None] | None = act
        self.said = said

    def beat(self, text: str) -> None:
        if self.act is not None and self.said in text:
            act, self.act = self.act, None
            act()


def verdict_of(folder: Path) -> dict[str, Any]:
    """verdict.json of a run."""
    return dict(json.loads((folder / "verdict.json").read_bytes()))
