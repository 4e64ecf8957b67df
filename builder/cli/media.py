"""The commands `builder media`."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import console, releases
from builder.cli.options import Force, Json, Release, parse_release
from builder.cli.output import display_path, emit, note
from builder.cli.state import State, search_path
from builder.errors import MediumError, RecipeError
from builder.iso import inspect as iso_inspect
from builder.iso.inspect import MediumFacts
from builder.kickstart.preflight import NO_PACKAGES
from builder.pipeline import inject_kickstart, media_library
from builder.pipeline.inject_kickstart import Injected
from builder.pipeline.media_library import StoredMedium
from builder.store.store import Store

File = Annotated[Path, typer.Argument(metavar="FILE", help="An install ISO.")]
STORED = {
    "there already": "was there already",
    "reflink": "shares its blocks with the file (reflink)",
    "hard link": "is the same file (hard link), now read-only",
    "copy": "a copy",
}
CHECKSUMS = {"good": "good: the implanted checksum holds", "none": "no checksum is implanted"}


def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the media in the store, and the pipelines that name them."""
    search = search_path("pipelines")
    store = Store(ctx.ensure_object(State).settings().store)
    media = media_library.in_store(store)
    for path in media_library.damaged(store):
        note(f"not listed: {display_path(path)} cannot be read; a run that needs it makes it anew")
    facts = [_facts(medium, media_library.pipelines_of(medium.sha256, search)) for medium in media]
    rows = [
        [
            str(medium["volume_id"]),
            console.size_text(int(medium["file_size"])),
            medium["sha256"][:16],
            _used_by(medium["pipelines"], bool(medium["is_rehearsal"])),
        ]
        for medium in facts
    ]
    text = console.table(["VOLUME", "SIZE", "SHA256", "FOR"], rows, right=(1,)) if rows else "no media\n"
    emit(facts, text, as_json)


def add(ctx: typer.Context, file: File, as_json: Json = False) -> None:
    """Add an ISO to the store, so that a run finds it."""
    medium, how = media_library.add(_existing(file), Store(ctx.ensure_object(State).settings().store))
    pipelines = media_library.pipelines_of(medium.sha256, search_path("pipelines"))
    rehearsal = bool(medium.facts["is_rehearsal"])
    text = [
        f"medium   {medium.facts['volume_id']}, {console.size_text(int(medium.facts['file_size']))}",
        f"sha256   {medium.sha256}",
        f"stored   {STORED[how]}",
        f"for      {_used_by(pipelines, rehearsal)}",
    ]
    if rehearsal:
        text.append(f"use      builder run PIPELINE --media {display_path(file)}")
    elif not pipelines:
        text.append("use      add its sha256 to media.sources of a recipe")
    emit({**_facts(medium, pipelines), "how": how}, text, as_json)


def inspect(
    file: File,
    packages: Annotated[bool, typer.Option("--packages", help="List its packages and groups.")] = False,
    as_json: Json = False,
) -> None:
    """Show what an ISO is: volume, boot records, checksum, packages."""
    facts = iso_inspect.inspect(_existing(file), packages=True)
    text = _medium_lines(facts)
    if facts.packages is None and facts.product:
        text.append(f"content  {NO_PACKAGES}")
    if packages and facts.packages is not None:
        text += ["", *(f"@{name}" for name in facts.groups or ()), *facts.packages]
    emit(facts.as_dict() | {"path": str(file), "truncated": facts.truncated}, text, as_json)


def verify(file: File, as_json: Json = False) -> None:
    """Read all of an ISO; exit 4 if nothing confirms it."""
    done = media_library.verify(_existing(file), search_path("pipelines"))
    text = [
        f"medium   {done.facts.volume_id}{' (rehearsal)' if done.facts.is_rehearsal else ''}",
        f"md5      {CHECKSUMS[done.md5]}",
        f"sha256   {done.sha256}",
        f"for      {_used_by(list(done.pipelines), done.facts.is_rehearsal)}",
    ]
    facts = {"path": str(file), "sha256": done.sha256, "md5_verdict": done.md5, "pipelines": list(done.pipelines)}
    emit(facts, text, as_json)


def inject(
    file: File,
    kickstart: Annotated[
        Path, typer.Option("--kickstart", metavar="KS", help="Put this on the new medium, as /ks.cfg.")
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Write the new ISO here; replaced when it is complete.")
    ],
    unattended: Annotated[
        bool, typer.Option("--unattended", help="Boot straight into the kickstart: ERASES DISKS.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy an ISO with a kickstart in it, for CDs and sticks.

    Its menu boots from the local disk unless somebody chooses the kickstart, or --unattended is given.
    """
    done = inject_kickstart.inject(_existing(file), kickstart, output, unattended=unattended)
    more = {"unattended": unattended, "erases": done.erases, "gpt": done.facts.gpt, "mbr": done.facts.mbr}
    emit(done.report.as_dict() | more, _injected_lines(done, unattended), as_json)


def rehearsal(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Write the new ISO here.")],
    release: Release = releases.DEFAULT,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a rehearsal medium, for hosts that cannot build one.

    It is built from the packages of this Debian or Ubuntu host, as `--media rehearsal` does.
    """
    shape = parse_release(release).name
    if output.is_dir() or (output.exists() and not force):
        raise RecipeError(f"--output {output} exists already", hint="give another name, or --force")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise RecipeError(f"--output {output}: there is no folder {output.parent} that can be written to")
    settings = ctx.ensure_object(State).settings()
    with console.watcher(as_json=as_json) as watcher:
        medium = media_library.write_rehearsal(output, shape, Store(settings.store), settings, watcher)
    text = [
        f"medium   {medium.facts['volume_id']} (rehearsal), {console.size_text(int(medium.facts['file_size']))}",
        f"sha256   {medium.sha256}",
        f"written  {display_path(output)}",
        f"use      builder run PIPELINE --media {display_path(output)}",
    ]
    emit({"sha256": medium.sha256, "path": str(medium.path), **medium.facts}, text, as_json)


def _injected_lines(done: Injected, unattended: bool) -> list[str]:
    head = [f"written  {display_path(done.report.output)}", *_medium_lines(done.facts)]
    head += _wrapped("changed", ", ".join(done.report.changed))
    if unattended:
        return [
            *head,
            "menu     starts the kickstart by itself after 1 s",
            "WARNING  any machine that boots this loses, without a question:",
            *_wrapped("", done.erases),
        ]
    return [
        *head,
        "menu     boots from the local disk after 60 s; the kickstart's entry says",
        "         ERASES DISKS",
        *_wrapped("chosen", f"it clears {done.erases}"),
    ]


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(text, 79, initial_indent=f"{title:9}", subsequent_indent=" " * 9)


def _medium_lines(facts: MediumFacts) -> list[str]:
    product = " ".join(word for word in (facts.product, facts.version, facts.arch) if word)
    boots = ", ".join(f"{entry.platform.upper()} ({entry.path or 'no name'})" for entry in facts.boot)
    stick = {None: "MBR", True: "MBR, GPT", False: "MBR, GPT (its checksums are wrong)"}[facts.gpt]
    # Plain names always exist, and are named only where there are no better ones.
    kinds = {"Rock Ridge": facts.names == "rock ridge", "Joliet": facts.joliet}
    names = " and ".join(kind for kind, there in kinds.items() if there) or "plain ISO 9660 (8.3)"
    size = f"{console.size_text(facts.file_size)} ({facts.file_size} bytes, volume {facts.volume_size})"
    text = [
        f"volume   {facts.volume_id or 'has no name'}",
        f"product  {product or 'unknown: no .treeinfo'}",
        f"size     {size}",
        f"files    {facts.files}, names by {names}",
        f"from CD  {boots or 'does not boot'}",
        f"as disk  {stick if facts.mbr else 'does not boot'}",
        f"md5      {f'{facts.md5} implanted' if facts.md5 else 'none implanted'}",
    ]
    if facts.packages is not None:
        text.append(f"content  {len(facts.packages)} packages, groups {', '.join(facts.groups or ()) or 'none'}")
    if facts.is_rehearsal:
        text.append("note     a rehearsal medium: not the vendor's")
    return text


def _facts(medium: StoredMedium, pipelines: list[str]) -> dict[str, Any]:
    return {"sha256": medium.sha256, "path": str(medium.path), **medium.facts, "pipelines": pipelines}


def _used_by(pipelines: list[str], rehearsal: bool) -> str:
    if rehearsal:
        return "rehearsals (--media)"
    return ", ".join(pipelines) or "no pipeline names it"


def _existing(file: Path) -> Path:
    if not file.is_file():
        what = "not a file" if file.exists() else "no such file"
        raise MediumError(f"{what}: {file}", hint="give the path of an install ISO")
    return file
