"""The executor that runs builds on the workers of a farm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from builder.errors import HostError
from builder.nightly.builds import ImageBuild
from builder.nightly.farm import LEASE, Tls
from builder.nightly.progress import OnEvent
from builder.nightly.scheduler import WorkerPool
from builder.nightly.worker import WorkerOptions


@dataclass(frozen=True)
class FarmExecutor:
    """Runs builds on the workers of a Dask scheduler.

    Args:
        address: of the scheduler (`tls://HOST:8786`).
        lease: seconds without a sign of life from this process, after which workers end its builds.
    """

    address: str
    tls: Tls
    lease: float = LEASE

    @contextmanager
    def open(self, builds: Sequence[ImageBuild], options: WorkerOptions, on_event: OnEvent) -> Iterator[WorkerPool]:
        """Connect to the scheduler.

        Raises:
            RecipeError: the address is refused, or a recipe cannot be sent.
            HostError: Dask is not installed, no scheduler answers, or it has no suitable worker.
        """
        try:
            # Not at the head: Dask is an extra, and takes a second to import.
            from builder.nightly.farm import client
        except ModuleNotFoundError as error:
            raise HostError(f"a farm needs {error.name}", hint="pip install 'builder[farm]'") from error
        with client.connect(self.address, self.tls, builds, options, on_event, lease=self.lease) as pool:
            yield pool
