"""The commands `builder keys`.

Invariant: a private key is never printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder import console
from builder.cli.options import Json
from builder.cli.output import emit
from builder.errors import RecipeError
from builder.provenance import dsse
from builder.provenance import keys as signing_keys

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the key; `default` signs what is published.")]


def create(name: Name = "default", as_json: Json = False) -> None:
    """Create a key; what is published from now on is signed.

    Publishing takes the key named `default`.
    """
    private, public = dsse.create()
    path = signing_keys.keep(name, public, private)
    facts = {"name": name, "id": dsse.key_id(public, name), "public": str(path)}
    text = [
        f"key      {facts['id']}",
        f"public   {path}",
        f"private  {path.with_suffix(signing_keys.KEY)}, readable by you only",
    ]
    emit(facts, text, as_json)


def list_(as_json: Json = False) -> None:
    """List the keys that are trusted, and say which of them can sign."""
    keys = [(key, dsse.key_id(key.path.read_bytes(), str(key.path))) for key in signing_keys.known()]
    facts = [
        {"name": key.name, "id": key_id, "public": str(key.path), "signs": key.private is not None}
        for key, key_id in keys
    ]
    rows = [[key.name, key_id[:12], "yes" if key.private else "no"] for key, key_id in keys]
    emit(facts, console.table(["NAME", "KEY", "CAN SIGN"], rows) if rows else "no keys\n", as_json)


def export(name: Name = "default", as_json: Json = False) -> None:
    """Print the public half of a key, for those who verify."""
    text = signing_keys.find(name).path.read_text(encoding="ascii")
    emit({"name": name, "pem": text}, text, as_json)


def trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The public key, in PEM format.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Keep it under this name (default: the file's).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Trust what the owner of this public key has signed."""
    try:
        public = file.read_bytes()
    except OSError as fault:
        raise RecipeError(f"{file} cannot be read: {fault.strerror}") from fault
    kept_as = name or file.stem
    key_id = dsse.key_id(public, str(file))
    path = signing_keys.keep(kept_as, public)
    emit({"name": kept_as, "id": key_id, "public": str(path)}, [f"trusted  {key_id} as {kept_as}"], as_json)
