"""The part of a stage's inputs that describes the machine which the stage runs, and the CPU that it needs."""

from __future__ import annotations

from typing import Any, Literal

from builder import releases
from builder.errors import HostError
from builder.recipe.build_spec import BuildSpec
from builder.settings import HostOptions
from builder.stage import Inputs, added
from builder.system import host_facts
from builder.system.host_facts import CpuFacts


class MachineInputs(Inputs):
    """The machine of a recipe; memory in bytes."""

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    cpu: releases.Cpu = added("x86-64")


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
