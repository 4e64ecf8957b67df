"""The one rule: what `host prepare` chose for this host is kept in one small file, and read at every start.

`settings.toml` has one table, `directories`, with `media` (install ISOs) and `store` (images, clones, runs). The
user's own file wins over the one for the whole host, key by key. Where: platformdirs' configuration directories,
that is `~/.config/builder` and `/etc/xdg/builder`.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from builder.errors import RecipeError

NAME = "settings.toml"
KEYS = ("media", "store")


@dataclass(frozen=True)
class Directories:
    """Where things live on this host; None where nothing was chosen."""

    media: Path | None = None
    store: Path | None = None


def host_file() -> Path:
    """The file for all users of this host."""
    return platformdirs.site_config_path("builder") / NAME


def user_file() -> Path:
    """The user's own file."""
    return platformdirs.user_config_path("builder") / NAME


def load() -> Directories:
    """What was chosen for this host and this user.

    A directory that this user may not write to is left out: builder then works below the current one, as it does
    on a host where nothing was chosen.

    Raises:
        RecipeError: a file is no TOML, or holds something else than directories.
    """
    chosen = {**_read(host_file()), **_read(user_file())}
    usable = {key: path for key, path in chosen.items() if key == "media" or os.access(path, os.W_OK)}
    return Directories(**usable)


def render(directories: Directories) -> str:
    """The text of such a file."""
    lines = ["# Written by `builder host prepare`; taken back by `builder host restore`.", "[directories]"]
    for key in KEYS:
        path = getattr(directories, key)
        if path is not None:
            # A JSON string is a TOML basic string.
            lines.append(f"{key} = {json.dumps(str(path), ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Path]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    except UnicodeDecodeError as fault:
        raise _wrong(path, str(fault)) from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise _wrong(path, str(fault)) from None
    table = content.get("directories", {})
    unknown = [key for key in content if key != "directories"]
    if unknown or not isinstance(table, dict):
        raise _wrong(path, f"only a table [directories] is known, not {unknown[0] if unknown else table!r}")
    found: dict[str, Path] = {}
    for key, value in table.items():
        if key not in KEYS:
            raise _wrong(path, f"directories.{key}: known are {' and '.join(KEYS)}")
        if not isinstance(value, str) or not value.startswith("/"):
            raise _wrong(path, f"directories.{key}: {value!r} is no absolute path")
        found[key] = Path(value)
    return found


def _wrong(path: Path, why: str) -> RecipeError:
    return RecipeError(f"{path} is no settings file", why, "mend the line, or remove the file")
