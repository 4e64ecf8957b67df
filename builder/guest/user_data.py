"""Somebody's own user-data for cloud-init, looked at on the host: a guest would only note what it passes over.

Sources: cloud-init 22.4 and 26.2, handlers/__init__.py (INCLUSION_TYPES_MAP: the first characters decide, in any case
and behind white space) and user_data.py (convert_string: gzip is unpacked; MIME is what says `MIME-Version:` in its
first 4096 bytes).
"""

from __future__ import annotations

import email
import zlib
from email.message import Message
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from builder.errors import RecipeError
from builder.recipe import text_faults

# Bytes, also of what is compressed. NoCloud has no limit of its own; EC2 takes 16 KiB, OpenStack 64 KiB.
MOST = 1 << 20
CONFIG = "#cloud-config"
SCRIPT = "#!"
KINDS = (
    "#cloud-config-archive",
    "#cloud-config-jsonp",
    CONFIG,
    "#cloud-boothook",
    "#include-once",
    "#include",
    "#part-handler",
    "## template: jinja",
    SCRIPT,
)
FORMS = f"it begins with {CONFIG}, {SCRIPT} and an interpreter, #include, #cloud-boothook or MIME's headers"
GZIP = b"\x1f\x8b"
# Of a MIME message; and how far cloud-init looks for the first.
MIME, LOOKED_AT = b"mime-version:", 4096


def read(path: Path) -> bytes:
    """Read user-data from a file, and look whether cloud-init would take it.

    Raises:
        RecipeError: it cannot be read, is too large, or is nothing that cloud-init acts on.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise RecipeError(f"cannot read the user-data {path}: {error.strerror}") from error
    if len(data) > MOST:
        raise _too_large(path)
    _check(path, _unpacked(path, data) if data.startswith(GZIP) else data)
    return data


def _too_large(path: Path) -> RecipeError:
    hint = "let it fetch what is large: #include and an address, or curl in a script"
    return RecipeError(f"the user-data {path} has more than {MOST >> 20} MiB", hint=hint)


def _unpacked(path: Path, data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unpacker.decompress(data, MOST + 1)
    except zlib.error as error:
        raise RecipeError(f"the user-data {path} looks like gzip, and cannot be unpacked", str(error)) from None
    if len(plain) > MOST:
        raise _too_large(path)
    if not unpacker.eof:
        raise RecipeError(f"the user-data {path} is gzip that breaks off", hint="compress it again")
    return plain


def _check(path: Path, data: bytes) -> None:
    if MIME in data[:LOOKED_AT].lower():
        message = email.message_from_bytes(data)
        if message.get_content_maintype() == "multipart" and not message.is_multipart():
            raise RecipeError(
                f"the user-data {path} is a MIME message without parts", hint="cloud-init devel make-mime"
            )
        for number, part in enumerate((part for part in message.walk() if not part.is_multipart()), 1):
            _check_part(path, number, part)
        return
    if data.lower().startswith(b"content-type:"):
        hint = "write `MIME-Version: 1.0` among its first lines"
        raise RecipeError(f"the user-data {path} has no MIME-Version, so cloud-init would not see its parts", hint=hint)
    _check_text(str(path), data)


def _check_part(path: Path, number: int, part: Message) -> None:
    """Look at one part of a MIME message whose type says that it is a configuration, or leaves it to its text."""
    body = part.get_payload(decode=True)
    kind = part.get_content_type()
    if not isinstance(body, bytes) or body.startswith(GZIP):
        return
    where = f"{path}, part {number}"
    if kind == "text/cloud-config":
        _check_yaml(where, body)
    elif kind in ("text/plain", "text/x-shellscript"):
        _check_text(where, body)


def _check_text(where: str, data: bytes) -> None:
    if data.startswith(text_faults.BOM.encode()):
        raise RecipeError(
            f"the user-data {where} starts with a byte order mark", "cloud-init would not see its first word"
        )
    fault = text_faults.of_script(data) if data.startswith(SCRIPT.encode()) else None
    if fault is not None:
        raise RecipeError(f"the user-data {where} {fault.what}", fault.why)
    start = data.lstrip()[:64].lower()
    kind = next((kind for kind in KINDS if start.startswith(kind.encode())), None)
    if kind is None:
        first = data.lstrip()[:40].split(b"\n")[0].decode("utf-8", "replace")
        raise RecipeError(
            f"the user-data {where} is nothing that cloud-init acts on: it begins with {first!r}", hint=FORMS
        )
    if kind == CONFIG:
        _check_yaml(where, data)


def _check_yaml(where: str, data: bytes) -> None:
    """Check that a configuration is YAML with keys and values, as far as that can be told without cloud-init."""
    yaml = YAML(typ="safe", pure=True)
    # PyYAML, which cloud-init reads it with, takes the last one.
    yaml.allow_duplicate_keys = True
    try:
        found = yaml.load(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(f"the user-data {where}, line {line}: not UTF-8", hint="save it as UTF-8") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"the user-data {where}, line {line}: not YAML: {error.problem or error.context}") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"the user-data {where} is not YAML: {str(error).splitlines()[0]}") from None
    if found is not None and not isinstance(found, dict):
        raise RecipeError(
            f"the user-data {where} is not `key: value` lines", hint="write, for example, `packages: [git]`"
        )
