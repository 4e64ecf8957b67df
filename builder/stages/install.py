"""The one rule: an install succeeded only if the guest powered itself off *and* reported our token on ttyS1."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from builder.adapters import disk, hypervisor
from builder.adapters.domain_xml import Disk, MachineSpec, UserNet
from builder.adapters.follow import LogFollower
from builder.adapters.screen import last_line
from builder.errors import InstallError
from builder.order import Order
from builder.stage import Inputs, Job, Stage
from builder.stages import answers, medium
from builder.stages.machines import mac_address, patience, workspace

FILE = "disk.raw"
# The installer writes its log to a port of this name when there is one (Anaconda 21.48, anaconda_log.py).
LOG_PORT = "org.fedoraproject.anaconda.log.0"


class InstallInputs(Inputs):
    """The machine that is installed; sizes in bytes."""

    vcpus: int
    memory: int
    firmware: str
    devices: str
    machine: str
    disk_size: int


def inputs(order: Order) -> InstallInputs:
    """Machine and disk of the recipe."""
    chosen = order.recipe.machine
    return InstallInputs(
        vcpus=chosen.vcpus,
        memory=chosen.memory,
        firmware=chosen.firmware,
        devices=chosen.devices,
        machine=chosen.machine,
        disk_size=order.recipe.disk.size,
    )
