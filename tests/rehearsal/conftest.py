"""Kernel and initrd of the medium, for machines that boot without a boot loader's menu."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Rehearsal
from tests.rehearsal.failing import Installers
from tests.rehearsal.machine import boot_files


@pytest.fixture(scope="session")
def rehearsal_boot(rehearsal_iso: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Kernel and initrd of the medium."""
    return boot_files(rehearsal_iso, tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="session")
def installers(rehearsal_of: Rehearsal, tmp_path_factory: pytest.TempPathFactory) -> Installers:
    """Installers that wait for their kickstart, by release."""
    return Installers(rehearsal_of, tmp_path_factory.mktemp("waiting"))
