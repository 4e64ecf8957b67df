"""Values as units of systemd have them: systemd.syntax(7), "Quoting"; systemd.service(5), "Command lines".

Invariant: systemd reads back what was given; what it cannot read back is refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from builder.errors import RecipeError


def one_line(value: str, what: str) -> str:
    """Return a value that a line can hold.

    Args:
        what: for the message, e.g. `the working directory`.

    Raises:
        RecipeError: it has a line break or another control character.
    """
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
        raise RecipeError(f"{what} contains a line break or a control character; a unit cannot hold it", repr(value))
    return value


def path(value: str, what: str) -> str:
    """Return a path that is the whole rest of a line, where quotes have no meaning.

    Raises:
        RecipeError: systemd would read another one.
    """
    if value != value.strip() or value.endswith("\\"):
        raise RecipeError(f"{what} begins or ends with a blank or a backslash; a unit cannot hold it", repr(value))
    return one_line(value, what).replace("%", "%%")


def word(value: str) -> str:
    """Return a word of a command line."""
    quoted = one_line(value, f"{value!r}").replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{quoted.replace("$", "$$")}"'


def assignments(values: Mapping[str, str]) -> str:
    """Return a line `Environment=`, in which a dollar sign has no meaning; nothing without values."""
    quoted = [
        one_line(f"{name}={value}", f"${name}").replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        for name, value in values.items()
    ]
    words = " ".join(f'"{each}"' for each in quoted)
    return f"Environment={words}\n" if words else ""


def environment_file(values: Mapping[str, str]) -> str:
    """Return the text of an `EnvironmentFile=`, which is quoted as for a shell (systemd.exec(5))."""
    lines = []
    for name, value in values.items():
        quoted = one_line(value, f"${name}")
        for char in '\\"`$':
            quoted = quoted.replace(char, f"\\{char}")
        lines.append(f'{name}="{quoted}"\n')
    return "".join(lines)
