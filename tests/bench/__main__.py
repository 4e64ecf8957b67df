"""`make bench`: every measurement, one after the other; each prints a table with its peer or physical limit."""

from __future__ import annotations

from tests.bench import (
    bench_cli,
    bench_clone,
    bench_farm,
    bench_host,
    bench_instant,
    bench_job,
    bench_media,
    bench_seal,
)

if __name__ == "__main__":
    bench_cli.main()
    bench_clone.main()
    bench_seal.main()
    bench_media.main()
    bench_farm.main()
    bench_host.main()
    bench_job.main()
    bench_instant.main()
