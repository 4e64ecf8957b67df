"""Builds on other hosts, through Dask.

`executor` is what a nightly run gets; `client` talks to the scheduler, and `worker` runs on the workers. The last two
need the extra `builder[farm]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Seconds without a sign of life from the nightly run, after which a worker ends its build.
LEASE = 30.0


@dataclass(frozen=True)
class Tls:
    """Files with the authority's certificate, our own, and its key; None for Dask's own configuration."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
