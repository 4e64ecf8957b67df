"""Inputs of the stages that run machines: the machine itself, which they share, and the CPU that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from builder import releases
from builder.errors import HostError
from builder.recipe.build_spec import BuildSpec
from builder.settings import HostOptions
from builder.stage import Inputs, added
from builder.system import host_facts
from builder.system.host_facts import CpuFacts

# What `provision` does last in its machine.
GENERALISE = Path(__file__).with_name("generalise.sh")


class MachineInputs(Inputs):
    """The machine of a recipe; memory in bytes."""

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    cpu: releases.Cpu = added("x86-64")


class VerifyInputs(MachineInputs):
    """The machines that the copies run on, what they must show, which paths may hold keys, and whether instant clones
    have to pass, too."""

    checks: tuple[tuple[str, str], ...]
    allow_private_keys: tuple[str, ...] = ()
    network: Literal["user", "nat", "bridge"] = "user"
    network_name: str | None = None
    warm: bool = added(False)


class ProvisionInputs(MachineInputs):
    """The machine, what it is made from, and what is done to it; sizes in bytes, contents by their SHA-256.

    Args:
        base: the published image that is built on, as `name@version`, and its SHA-256; None after an install.
        files: source, SHA-256, path in the guest, mode.
        scripts: source and SHA-256, in the order in which they are run.
        playbook: folder, its SHA-256, and the playbook in it.
        generalise: SHA-256 of the generalise script.
    """

    disk_size: int
    base: tuple[str, str] | None
    files: tuple[tuple[str, str, str, int], ...]
    scripts: tuple[tuple[str, str], ...]
    playbook: tuple[str, str, str] | None
    generalise: str


def machine_of(spec: BuildSpec) -> dict[str, Any]:
    """Return the fields of `MachineInputs` for a build."""
    named = spec.recipe.machine.model_dump(include=set(MachineInputs.model_fields))
    return {**named, "cpu": spec.recipe.cpu}


def require_cpu(given: MachineInputs, host: HostOptions) -> None:
    """Look whether this host's CPU, which a machine with KVM has, is new enough; emulation (QEMU 7.2) brings its own.

    Raises:
        HostError: it is not: the guest's first program would end with "CPU does not support", and its kernel panic.
        KvmError: KVM is required, and not there.
    """
    # Whether libvirt offers KVM is not asked yet: here it costs nothing to be too strict, for the hint leads on.
    if releases.FLAGS[given.cpu] and host_facts.choose_accel(host.accel, host.require_kvm, ("kvm",)).name == "kvm":
        require_level(given.cpu, host_facts.cpu())


def require_level(level: releases.Cpu, found: CpuFacts) -> None:
    """Compare a CPU with a level.

    Raises:
        HostError: it lacks something, which is named.
    """
    if missing := sorted(releases.FLAGS[level] - found.flags):
        raise HostError(
            f"the installed system needs a CPU of level {level}, and this host's {found.model} is older",
            f"it lacks {' '.join(missing)}",
            "take a newer host, or --accel tcg: QEMU 7.2 and later emulates such a CPU, about ten times slower",
        )
