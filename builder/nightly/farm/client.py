"""The connection of a nightly run to a farm's scheduler, and the pool of its workers.

A run holds a lease on the farm: a number at the scheduler that it counts up. A worker that sees no new number ends its
build. Orders of the run (go on, start nothing more, end) travel the same way.

Invariant: the connection is made with TLS, or does not leave this host: a scheduler's port runs code.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets as randomness
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dask.utils import parse_bytes
from distributed import Client, Variable
from distributed.security import Security

from builder.errors import BuilderError, HostError, RecipeError
from builder.nightly.builds import ImageBuild
from builder.nightly.capacity import Capacity, memory_of
from builder.nightly.farm import LEASE, Tls, evidence
from builder.nightly.farm.worker import GO, HALT, BuildResult, Task, collect_files, work
from builder.nightly.progress import OnEvent
from builder.nightly.record import Result
from builder.nightly.scheduler import CUT_SHORT, FAILED_FAST
from builder.nightly.worker import WorkerOptions, skipped

SLOTS, MEMORY = "vm-slots", "memory"
START_WORKER = f'dask worker ADDRESS --nthreads 2 --resources "{SLOTS}=2 {MEMORY}=16e9"'
# What Dask raises when the scheduler does not answer.
_AWAY = (OSError, RuntimeError, TimeoutError)


def security(address: str, tls: Tls) -> Security | None:
    """Return what the connection to the scheduler is made with; None for one to this host without TLS.

    Raises:
        RecipeError: the address is not valid, leaves this host without TLS, or there are no certificates for it.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme not in ("tcp", "tls") or not parts.hostname:
        raise RecipeError(f"{address} is not the address of a scheduler", hint="--scheduler tls://HOST:8786")
    if parts.scheme == "tcp":
        if _loopback(parts.hostname):
            return None
        raise RecipeError(
            f"the connection to {address} would not be encrypted",
            "anyone who reaches a scheduler's port, or sits on the way to it, can run programs on every worker",
            f"--scheduler tls://{parts.netloc} with --tls-ca, --tls-cert and --tls-key",
        )
    files = {"tls_ca_file": tls.ca, "tls_client_cert": tls.cert, "tls_client_key": tls.key}
    for path in files.values():
        if path is not None and not path.is_file():
            raise RecipeError(f"{path} does not exist", f"needed to connect to {address}", "see docs/farm.md")
    try:
        made = Security(require_encryption=True, **{name: str(path) for name, path in files.items() if path})
        context = made.get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as error:
        raise RecipeError("the certificates for the farm cannot be used", str(error), "see docs/farm.md") from error
    if context is None:
        raise RecipeError(f"{address} needs certificates", hint="give --tls-ca, --tls-cert and --tls-key")
    return made


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class FarmPool:
    """The workers of a scheduler; made by `connect`."""

    def __init__(
        self, client: Client, task: Task, builds: Sequence[ImageBuild], options: WorkerOptions, on_event: OnEvent
    ) -> None:
        self._client, self._task, self._options, self._on_event = client, task, options, on_event
        self._builds = {build.name: build for build in builds}
        self._variable = Variable(task.run, client=client)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._beats, self._order = 0, GO
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        resources = [worker["resources"] for worker in workers if worker["resources"].get(SLOTS, 0) >= 1]
        if not resources:
            brief = f"the farm has no worker with {SLOTS}"
            raise HostError(brief, f"{len(workers)} workers are connected", f"start one: {START_WORKER}")
        self._limits_memory = all(MEMORY in offered for offered in resources)
        if self._limits_memory:
            _check_memory(builds, resources)
        slots, count = sum(int(offered[SLOTS]) for offered in resources), len(resources)
        self.capacity = Capacity(slots, f"{count} worker{'' if count == 1 else 's'} of the farm")
        # Never more builds than slots are at the scheduler: Dask hands all that it has to workers at once, and when a
        # worker is lost, suspects every build that only waited there of having killed it. Each thread only waits.
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="farm")

    def submit(self, build: ImageBuild) -> Future[Result]:
        """Queue a build; those of a worker that is lost run again on another one."""
        return self._threads.submit(self._run, build)

    def shutdown(self) -> None:
        """Start nothing more; do not wait for what runs: its worker may not answer any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def end(self, how: signal.Signals) -> None:
        """Have the workers end all builds."""
        self._try_send(how.name)

    def forward(self, event: tuple[float, dict[str, Any]]) -> None:
        """Hand on an event of a build on a worker."""
        content = event[1]
        self._on_event(self._builds[content["build"]], content["event"])

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """Hold the lease for the length of the block."""
        self._send()
        renewal = threading.Thread(target=self._renew, name="lease", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            self._over.set()
            renewal.join(self._task.lease)
            with contextlib.suppress(*_AWAY):
                self._variable.delete()

    def _run(self, build: ImageBuild) -> Result:
        """Have a worker run a build, and wait for its result."""
        if self._order != GO:
            return skipped(build, FAILED_FAST if self._order == HALT else CUT_SHORT)
        needs: dict[str, float] = {SLOTS: 1}
        if self._limits_memory and build.recipe:
            needs[MEMORY] = memory_of(build.recipe)
        try:
            sent = self._client.submit(work, self._task, build, resources=needs, pure=False)
            delivered: BuildResult = sent.result()
        except BuilderError:
            raise
        except Exception as error:
            hint = "look into the logs of the scheduler and of its workers"
            raise HostError("no worker of the farm finished this build", str(error), hint) from error
        result = self._unpack(delivered)
        if self._options.fail_fast and not result.good and self._order == GO:
            self._try_send(HALT)
        return result

    def _unpack(self, delivered: BuildResult) -> Result:
        """Write the evidence of a build to this host, and return the result."""
        return keep_evidence(delivered, self._options.artifacts / "runs")

    def _send(self, order: str | None = None) -> None:
        """Count up the lease, and give a new order if there is one."""
        with self._lock:
            self._order = order or self._order
            self._beats += 1
            self._variable.set([self._beats, self._order], timeout=self._task.lease)

    def _try_send(self, order: str | None = None) -> None:
        # When the scheduler is away, those who wait for results notice; the lease then runs out.
        with contextlib.suppress(*_AWAY):
            self._send(order)

    def _renew(self) -> None:
        while not self._over.wait(self._task.lease / 6):
            self._try_send()


def keep_evidence(delivered: BuildResult, runs: Path) -> Result:
    """Keep what a worker sent of a run below `runs`; what the result says of files is made to be about these.

    Raises:
        HostError: the evidence is refused.
    """
    result = delivered.result
    result.folder, result.evidence = "", sorted(delivered.evidence)
    if result.picture not in delivered.evidence:
        result.picture = ""
    if delivered.evidence:
        result.folder = str(evidence.keep(runs, result.run, delivered.evidence, result.host))
    return result


def _check_memory(builds: Sequence[ImageBuild], resources: Sequence[Mapping[str, Any]]) -> None:
    """Refuse builds that would wait for ever for a worker with enough memory."""
    largest = max(parse_bytes(offered[MEMORY]) for offered in resources)
    for build in builds:
        if build.recipe and memory_of(build.recipe) > largest:
            raise HostError(f"{build.name} needs more memory than any worker of the farm offers", hint=START_WORKER)


@contextlib.contextmanager
def connect(
    address: str,
    tls: Tls,
    builds: Sequence[ImageBuild],
    options: WorkerOptions,
    on_event: OnEvent,
    *,
    lease: float = LEASE,
) -> Iterator[FarmPool]:
    """Connect to a farm for one nightly run.

    Args:
        lease: seconds without a sign of life from this process, after which workers end its builds.

    Raises:
        RecipeError: the address is refused (see `security`), or a recipe cannot be sent.
        HostError: no scheduler answers, or it has no suitable worker.
    """
    secured = security(address, tls)
    task = Task(
        run=f"builder-{randomness.token_hex(8)}",
        lease=lease,
        options=options.options,
        push=options.push,
        files=collect_files(Path.cwd(), builds),
        began=time.time() - options.now,
    )
    try:
        client = Client(address, security=secured, timeout=10, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise HostError(f"no scheduler answers at {address}", str(error), "start one: dask scheduler") from error
    with client:
        pool = FarmPool(client, task, builds, options, on_event)
        client.subscribe_topic(task.run, pool.forward)
        with pool.leased():
            yield pool
        client.unsubscribe_topic(task.run)
