"""Options of ssh(1) as command lines, ssh_config(5) and Ansible's inventories have them.

Invariant: a path is quoted for each language that reads it; one that cannot be is refused.

ssh splits a value at blanks unless it is in double quotes, and replaces what begins with `%` or `${` (ssh_config(5),
"TOKENS" and "ENVIRONMENT VARIABLES"). Ansible splits an inventory and `ansible_ssh_common_args` as a shell does,
and replaces what is in double braces. Which quotes and backslashes ssh knows inside quotes depends on its version.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from builder.errors import HostError

PATHS = ("IdentityFile", "UserKnownHostsFile")
_UNQUOTABLE = re.compile(r'["\\\x00-\x1f\x7f]|\$\{|\{[{%#]')


def value(name: str, text: str) -> str:
    """Return the value of an option as ssh reads it back.

    Raises:
        HostError: it is a path that cannot be written so that ssh and Ansible read it.
    """
    return f'"{_path(text)}"' if name in PATHS else text


def words(options: Mapping[str, str]) -> list[str]:
    """Return options as words of a command line."""
    return [word for name, text in options.items() for word in ("-o", f"{name}={value(name, text)}")]


def config(host: str, options: Mapping[str, str]) -> str:
    """Return options as a block of ssh_config(5)."""
    return "\n".join([f"Host {host}", *(f"  {name} {value(name, text)}" for name, text in options.items()), ""])


def inventory_line(host: str, options: Mapping[str, str]) -> str:
    """Return a host with its options as a line of an inventory in Ansible's INI form."""
    facts = {
        "ansible_host": options["HostName"],
        "ansible_port": options["Port"],
        "ansible_user": options["User"],
        # Ansible puts this path between double quotes for ssh, but leaves a `%` as it is.
        **({"ansible_ssh_private_key_file": _path(options["IdentityFile"])} if "IdentityFile" in options else {}),
    }
    others = {name: text for name, text in options.items() if name not in ("HostName", "Port", "User", "IdentityFile")}
    facts["ansible_ssh_common_args"] = shlex.join(words(others))
    return " ".join([host, *(shlex.quote(f"{name}={text}") for name, text in facts.items())])


def _path(path: str) -> str:
    if found := _UNQUOTABLE.search(path):
        raise HostError(
            f"{path!r}: ssh and Ansible cannot be given a path with {found[0]!r}",
            hint="move the folder to a path without quotes, backslashes, ${ and doubled braces",
        )
    return path.replace("%", "%%")
