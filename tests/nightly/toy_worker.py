"""Loaded by `dask worker --preload tests.nightly.toy_worker`: a worker whose builds are toy builds."""

import sys
from pathlib import Path

from builder.nightly import worker

worker.BUILDER = (sys.executable, "-P", str(Path(__file__).with_name("toy_builder.py")))
