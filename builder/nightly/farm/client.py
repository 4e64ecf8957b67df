"""The one rule: a farm's scheduler is spoken to over TLS, or not beyond this host: its port runs code.

A night holds a lease on the farm: a number at the scheduler that it counts up. A worker whose build hears no new
number ends that build. What the night wants done (go, start nothing more, end) travels the same way.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import secrets as randomness
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dask.utils import parse_bytes
from distributed import Client, Variable
from distributed.security import Security

from builder.errors import HostError, RecipeError
from builder.nightly.builds import Build
from builder.nightly.capacity import memory_of
from builder.nightly.farm.worker import GO, HALT, Delivery, Task, carried, work
from builder.nightly.record import Result
from builder.nightly.scheduler import CUT, HALTED, not_built
from builder.nightly.worker import Tell

# Seconds without a sign of life from the night, after which a worker ends its build.
LEASE = 30.0
SLOTS, MEMORY = "vm-slots", "memory"
START_WORKER = f'dask worker ADDRESS --nthreads 2 --resources "{SLOTS}=2 {MEMORY}=16e9"'
T = TypeVar("T")


@dataclass(frozen=True)
class Tls:
    """Files with the authority's certificate, our own, and its key; None for Dask's own configuration."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def security(address: str, tls: Tls) -> Security | None:
    """What the connection to the scheduler is made with; None for one without TLS to this host.

    Raises:
        RecipeError: the address is none, leaves this host without TLS, or there are no certificates for it.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme not in ("tcp", "tls") or not parts.hostname:
        raise RecipeError(f"{address} is no address of a scheduler", hint="--scheduler tls://HOST:8786")
    if parts.scheme == "tcp":
        if _loopback(parts.hostname):
            return None
        raise RecipeError(
            f"{address} would be spoken to without TLS",
            "whoever reaches a scheduler's port, or sits on the way to it, can run programs on every worker",
            f"--scheduler tls://{parts.netloc} with --tls-ca, --tls-cert and --tls-key",
        )
    given = {"tls_ca_file": tls.ca, "tls_client_cert": tls.cert, "tls_client_key": tls.key}
    for path in given.values():
        if path is not None and not path.is_file():
            raise RecipeError(f"{path} is not there", f"needed to speak to {address}", "see docs/farm.md")
    try:
        made = Security(require_encryption=True, **{name: str(path) for name, path in given.items() if path})
        context = made.get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as fault:
        raise RecipeError("the certificates for the farm cannot be used", str(fault), "see docs/farm.md") from fault
    if context is None:
        raise RecipeError(f"{address} needs certificates", hint="give --tls-ca, --tls-cert and --tls-key")
    return made


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Farm(Executor):
    """An executor that runs builds on the workers of a scheduler; made by `joined`."""

    def __init__(self, client: Client, task: Task, builds: dict[str, Build], tell: Tell, artifacts: Path) -> None:
        self._client, self.task, self._builds, self._tell = client, task, builds, tell
        self.work = functools.partial(work, task)
        self._artifacts = artifacts
        self._variable = Variable(task.night, client=client)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._beats, self._order = 0, GO
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        able = [worker["resources"] for worker in workers if worker["resources"].get(SLOTS, 0) >= 1]
        if not able:
            raise HostError(
                f"the farm has no worker with {SLOTS}",
                f"{len(workers)} workers are there",
                f"start one: {START_WORKER}",
            )
        self._sized = all(MEMORY in worker for worker in able)
        self.workers, self.slots = len(able), sum(int(worker[SLOTS]) for worker in able)
        # No more than there are slots are under way: Dask hands all that it has to workers at once, and when a worker
        # is lost, holds every build that only waited there suspect of having killed it. Each thread only waits.
        self._waiting = ThreadPoolExecutor(self.slots, thread_name_prefix="farm")
        largest = max((parse_bytes(worker.get(MEMORY, 0)) for worker in able), default=0)
        for build in builds.values():
            if self._sized and build.recipe and memory_of(build.recipe) > largest:
                raise HostError(f"{build.name} needs more memory than any worker of the farm offers", hint=START_WORKER)

    @property
    def executor(self) -> Executor:
        """Itself."""
        return self

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Send one build; a worker that is lost on the way has its builds run again on another one."""
        build: Build = args[0]
        needs: dict[str, float] = {SLOTS: 1}
        if self._sized and build.recipe:
            needs[MEMORY] = memory_of(build.recipe)

        def far() -> Any:
            if self._order != GO:
                return Delivery(not_built(build, HALTED if self._order == HALT else CUT))
            found: T = self._client.submit(fn, *args, **kwargs, resources=needs, pure=False).result()
            return found

        return self._waiting.submit(far)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - Executor's
        """Send nothing more; never waits: what runs may be on a worker that does not answer any more."""
        self._waiting.shutdown(wait=False, cancel_futures=cancel_futures)

    def unpack(self, found: Any) -> Result:
        """The result of a build, and its evidence laid down here."""
        delivery: Delivery = found
        result = delivery.result
        if delivery.evidence:
            folder = self._artifacts / "runs" / result.run
            for name, data in delivery.evidence.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            result.folder, result.evidence = str(folder), sorted(delivery.evidence)
        return result

    def halt(self) -> None:
        """Have nothing more started."""
        self._say(HALT)

    def end(self, how: signal.Signals) -> None:
        """Have all builds ended."""
        self._say(how.name)

    def hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """Something that a build said, far away."""
        said = event[1]
        self._tell(self._builds[said["build"]], said["event"])

    def _say(self, order: str | None = None) -> None:
        with self._lock:
            self._order = order or self._order
            self._beats += 1
            self._variable.set([self._beats, self._order], timeout=self.task.lease)

    def _renew(self) -> None:
        while not self._over.wait(self.task.lease / 6):
            # A scheduler that is away is found by whoever waits for results; the lease then runs out.
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                self._say()

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """Hold the lease."""
        self._say()
        beat = threading.Thread(target=self._renew, name="lease", daemon=True)
        beat.start()
        try:
            yield
        finally:
            self._over.set()
            beat.join(self.task.lease)
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                self._variable.delete()


@contextlib.contextmanager
def joined(
    address: str,
    tls: Tls,
    builds: tuple[Build, ...],
    options: tuple[str, ...],
    tell: Tell,
    artifacts: Path,
    *,
    push: tuple[str, ...] = (),
    lease: float = LEASE,
) -> Iterator[Farm]:
    """A farm for one night.

    Args:
        options: words for each `builder run`.
        artifacts: the evidence of builds is laid down here.
        push: see `building.Orders`.
        lease: seconds without a sign of life from this process, after which workers end its builds.

    Raises:
        RecipeError: the address is refused (see `security`), or a recipe cannot be sent.
        HostError: no scheduler answers, or it has no fitting worker.
    """
    secured = security(address, tls)
    task = Task(f"builder-{randomness.token_hex(8)}", lease, options, push, carried(Path.cwd(), builds), time.time())
    try:
        client = Client(address, security=secured, timeout=10, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as fault:
        raise HostError(f"no scheduler answers at {address}", str(fault), "start one: dask scheduler") from fault
    with client:
        farm = Farm(client, task, {build.name: build for build in builds}, tell, artifacts)
        client.subscribe_topic(task.night, farm.hear)
        with farm.leased():
            yield farm
        client.unsubscribe_topic(task.night)
