"""Options that `builder clone` and `builder vm` share, each described once."""

from __future__ import annotations

from typing import Annotated

import typer

from builder.errors import RecipeError
from builder.recipe.types import size

Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Give the VM this much memory, e.g. 2GiB.")
]
Vcpus = Annotated[
    int | None, typer.Option("--vcpus", metavar="N", min=1, max=255, help="Give the VM this many processors.")
]
AnsibleInventory = Annotated[bool, typer.Option("--ansible-inventory", help="Print an inventory for Ansible instead.")]
SshConfig = Annotated[bool, typer.Option("--ssh-config", help="Print Host blocks for ssh_config instead.")]


def parse_size(option: str, text: str | None) -> int | None:
    """Parse the value of an option that takes a size; return bytes.

    Raises:
        RecipeError: it is not a size.
    """
    if text is None:
        return None
    try:
        return size(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise RecipeError(f"{option}: {error}") from None


def require_one_format(*, inventory: bool, config: bool, as_json: bool) -> None:
    """Check that at most one format of the list of VMs is asked for.

    Raises:
        RecipeError: there are several.
    """
    if inventory + config + as_json > 1:
        raise RecipeError("only one of --ansible-inventory, --ssh-config and --json can be printed")
