"""The settings files: where things live on this host, and who gets messages about nightly builds.

`settings.toml` has three tables. `directories`, which `host prepare` writes: `media` (install ISOs) and `store`
(images, clones, runs). `notify`: `to` (addresses, or files that hold them), `when` (`failure` or `always`) and
`report_url`. `images`: `require_signed` (`true`: pull, clone and build on signed images only).
The user's own file wins over the one for the whole host, key by key. Where: `~/.config/builder` and
`/etc/xdg/builder`, or as `$XDG_CONFIG_HOME` and `$XDG_CONFIG_DIRS` say.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from builder.errors import RecipeError
from builder.settings import host_config, user_config

NAME = "settings.toml"
HEAD = "# Written by `builder host prepare`; taken back by `builder host restore`."
KEYS = ("media", "store")
TABLES = ("directories", "images", "notify")
NOTIFY_KEYS = ("to", "when", "report_url")
When = Literal["failure", "always"]


@dataclass(frozen=True)
class Directories:
    """Directories of this host; None where nothing was chosen."""

    media: Path | None = None
    store: Path | None = None


@dataclass(frozen=True)
class NotifySettings:
    """Recipients of messages about nightly builds.

    Args:
        to: addresses of apprise (`mailto://…`, `slack://…`), or paths of files that hold one a line.
        when: `failure` for nights that fail or succeed again after a failure, `always` for every night.
        report_url: address of the folder `reports` on a web server; "" names the report by its path.
        source: the file that `to` is from.
    """

    to: tuple[str, ...] = ()
    when: When = "failure"
    report_url: str = ""
    source: Path | None = None


def host_file() -> Path:
    """The file for all users of this host."""
    return host_config() / NAME


def user_file() -> Path:
    """The user's own file."""
    return user_config() / NAME


def load() -> Directories:
    """Settings of this host and this user.

    A directory that this user may not write to is left out: builder then works below the current one, as it does
    on a host where nothing was chosen.

    Raises:
        RecipeError: a file is no TOML, or holds something else than directories.
    """
    chosen = {**_directories(host_file()), **_directories(user_file())}
    usable = {key: path for key, path in chosen.items() if key == "media" or os.access(path, os.W_OK)}
    return Directories(**usable)


def load_notify() -> NotifySettings:
    """Read who gets messages about nightly builds.

    Raises:
        RecipeError: a file is not TOML, or holds something else than it may.
    """
    return NotifySettings(**{**_notify(host_file()), **_notify(user_file())})


def load_require_signed() -> bool:
    """Read whether images have to be signed by a trusted key.

    Raises:
        RecipeError: a file is not TOML, or holds something else than it may.
    """
    return {**_images(host_file()), **_images(user_file())}.get("require_signed", False)


def render(directories: Directories, before: str = "") -> str:
    """The text of a settings file with these directories.

    Args:
        before: the text of the file so far; what else is in it is kept as it is.
    """
    lines = [HEAD, "[directories]"]
    # A JSON string is a TOML basic string.
    lines += [
        f"{key} = {json.dumps(str(path), ensure_ascii=False)}"
        for key in KEYS
        if (path := getattr(directories, key)) is not None
    ]
    rest = _other_tables(before)
    return "\n".join([*lines, *(["", rest] if rest else [])]) + "\n"


def _other_tables(text: str) -> str:
    """A settings file without its table of directories."""
    kept, inside = [], False
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.strip() == "[directories]"
            if inside:
                continue
        if line != HEAD and not (inside and line.partition("=")[0].strip() in KEYS):
            kept.append(line)
    return "\n".join(kept).strip()


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file; none when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    except UnicodeDecodeError as fault:
        raise _wrong(path, str(fault)) from None
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise _wrong(path, str(fault)) from None
    for name, table in content.items():
        if name not in TABLES or not isinstance(table, dict):
            raise _wrong(path, f"{name}: only the tables {', '.join(f'[{one}]' for one in TABLES)} are known")
    return content


def _directories(path: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for key, value in _tables(path).get("directories", {}).items():
        if key not in KEYS:
            raise _wrong(path, f"directories.{key}: known are {' and '.join(KEYS)}")
        if not isinstance(value, str) or not value.startswith("/"):
            raise _wrong(path, f"directories.{key}: {value!r} is no absolute path")
        found[key] = Path(value)
    return found


def _notify(path: Path) -> dict[str, Any]:
    """Parse the table into arguments of `NotifySettings`. No message repeats an address: it holds secrets."""
    found: dict[str, Any] = {}
    for key, value in _tables(path).get("notify", {}).items():
        if key not in NOTIFY_KEYS:
            raise _wrong(path, f"notify.{key}: known are {', '.join(NOTIFY_KEYS)}")
        if key == "to":
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise _wrong(path, "notify.to: a list of addresses is wanted")
            found |= {"to": tuple(value), "source": path}
        elif key == "when" and value not in get_args(When):
            raise _wrong(path, f"notify.when: {value!r} is not one of {', '.join(get_args(When))}")
        elif not isinstance(value, str):
            raise _wrong(path, f"notify.{key}: {value!r} is not a text")
        else:
            found[key] = value
    return found


def _images(path: Path) -> dict[str, bool]:
    found = {}
    for key, value in _tables(path).get("images", {}).items():
        if key != "require_signed":
            raise _wrong(path, f"images.{key}: known is require_signed")
        if not isinstance(value, bool):
            raise _wrong(path, f"images.{key}: {value!r} is neither true nor false")
        found[key] = value
    return found


def _wrong(path: Path, why: str) -> RecipeError:
    return RecipeError(f"{path} is no settings file", why, "mend the line, or remove the file")
