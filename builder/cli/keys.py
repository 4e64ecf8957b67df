"""The one rule: these commands parse, call `builder.provenance.keys` and print; a private key is never printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli.options import Json
from builder.cli.output import print_json, print_lines, write

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="`default` signs what is published.")]


def create(name: Name = "default", as_json: Json = False) -> None:
    """Create a key; what is published from now on is signed.

    Publishing takes the key named `default`.
    """
    from builder.provenance import dsse
    from builder.provenance import keys as signing

    private, public = dsse.create()
    path = signing.keep(name, public, private)
    facts = {"name": name, "id": dsse.key_id(public, name), "public": str(path)}
    if as_json:
        print_json(facts)
        return
    print_lines(
        [
            f"key      {facts['id']}",
            f"public   {path}",
            f"private  {path.with_suffix(signing.KEY)}, readable by you only",
        ]
    )


def list_(as_json: Json = False) -> None:
    """List the keys that are trusted, and say which of them can sign."""
    from builder import console
    from builder.provenance import dsse
    from builder.provenance import keys as signing

    rows = [(one, dsse.key_id(one.path.read_bytes(), str(one.path))) for one in signing.known()]
    if as_json:
        print_json(
            [
                {"name": one.name, "id": id_, "public": str(one.path), "signs": one.private is not None}
                for one, id_ in rows
            ]
        )
    elif not rows:
        print_lines(["no keys"])
    else:
        table = [[one.name, id_[:12], "yes" if one.private else "no"] for one, id_ in rows]
        write(console.table(["NAME", "KEY", "CAN SIGN"], table))


def export(name: Name = "default", as_json: Json = False) -> None:
    """Print the public half of a key, for those who verify."""
    from builder.errors import RecipeError
    from builder.provenance import keys as signing

    found = {one.name: one for one in signing.known()}
    if name not in found:
        raise RecipeError(
            f"there is no key named {name}", f"known: {', '.join(found) or 'none'}", "builder keys create"
        )
    text = found[name].path.read_text(encoding="ascii")
    if as_json:
        print_json({"name": name, "pem": text})
    else:
        write(text)


def trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Somebody's public key, PEM.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Default: the file's.")] = None,
    as_json: Json = False,
) -> None:
    """Trust what the owner of this public key has signed."""
    from builder.errors import RecipeError
    from builder.provenance import dsse
    from builder.provenance import keys as signing

    try:
        public = file.read_bytes()
    except OSError as fault:
        raise RecipeError(f"{file} cannot be read: {fault.strerror}") from fault
    chosen = name or file.stem
    facts = {"name": chosen, "id": dsse.key_id(public, str(file))}
    facts["public"] = str(signing.keep(chosen, public))
    if as_json:
        print_json(facts)
    else:
        print_lines([f"trusted  {facts['id']} as {chosen}"])
