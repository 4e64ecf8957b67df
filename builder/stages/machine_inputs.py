"""The part of a stage's inputs that describes the machine which the stage runs."""

from __future__ import annotations

from typing import Any, Literal

from builder.recipe.build_spec import BuildSpec
from builder.stage import Inputs


class MachineInputs(Inputs):
    """The machine of a recipe; memory in bytes."""

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]


def machine_of(spec: BuildSpec) -> dict[str, Any]:
    """Return the fields of `MachineInputs` for a build."""
    return spec.recipe.machine.model_dump(include=set(MachineInputs.model_fields))
