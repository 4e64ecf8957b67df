"""The one rule: a medium is looked at, taken in or copied here; the file that was given is never written to."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.options import Json
from builder.cli.output import display_path, print_json, print_lines, write
from builder.cli.state import State, search_path
from builder.errors import MediumError, RecipeError

if TYPE_CHECKING:
    from builder.iso.inspect import MediumFacts
    from builder.iso.remaster import RemasterReport
    from builder.kickstart.parse import Kickstart

File = Annotated[Path, typer.Argument(metavar="FILE", help="An install ISO.")]
Listing = Annotated[bool, typer.Option("--packages", help="List its packages and groups.")]
WithKickstart = Annotated[Path, typer.Option("--kickstart", metavar="KS", help="Becomes /ks.cfg on the new medium.")]
Output = Annotated[Path, typer.Option("--output", metavar="FILE", help="The new ISO; replaced when it is complete.")]
Unattended = Annotated[bool, typer.Option("--unattended", help="Boot straight into the kickstart: ERASES DISKS.")]


def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the media in the store, and the pipelines that name them."""
    from builder import console
    from builder.pipeline import media_library as known
    from builder.store.store import Store

    search = search_path("pipelines")
    found = known.in_store(Store(ctx.ensure_object(State).settings().store))
    named = {one.sha256: known.pipelines_of(one.sha256, search) for one in found}
    if as_json:
        print_json([_facts(one.facts, one.path, one.sha256) | {"pipelines": named[one.sha256]} for one in found])
    elif not found:
        print_lines(["no media"])
    else:
        rows = [
            [
                str(one.facts["volume_id"]),
                console.size_text(int(one.facts["file_size"])),
                one.sha256[:16],
                _used_by(named[one.sha256], bool(one.facts["is_rehearsal"])),
            ]
            for one in found
        ]
        write(console.table(["VOLUME", "SIZE", "SHA256", "FOR"], rows, right=(1,)))


def add(ctx: typer.Context, file: File, as_json: Json = False) -> None:
    """Take an ISO into the store, so that a run finds it."""
    from builder import console
    from builder.pipeline import media_library as known
    from builder.store.store import Store

    medium, how = known.add(_there(file), Store(ctx.ensure_object(State).settings().store))
    named = known.pipelines_of(medium.sha256, search_path("pipelines"))
    if as_json:
        print_json(_facts(medium.facts, medium.path, medium.sha256) | {"how": how, "pipelines": named})
        return
    ways = {
        "there already": "was there already",
        "reflink": "shares its blocks with the file (reflink)",
        "hard link": "is the same file (hard link), now read-only",
        "copy": "a copy",
    }
    rehearsal = bool(medium.facts["is_rehearsal"])
    print_lines(
        [
            f"medium   {medium.facts['volume_id']}, {console.size_text(int(medium.facts['file_size']))}",
            f"sha256   {medium.sha256}",
            f"stored   {ways[how]}",
            f"for      {_used_by(named, rehearsal)}",
        ]
    )
    if rehearsal:
        print_lines([f"use      builder run PIPELINE --media {display_path(file)}"])
    elif not named:
        print_lines(["use      add its sha256 to media.sources of a recipe"])


def inspect(file: File, packages: Listing = False, as_json: Json = False) -> None:
    """Show what an ISO is: volume, boot records, checksum, packages."""
    from builder.iso import inspect as iso_inspect

    facts = iso_inspect.inspect(_there(file), packages=True)
    if as_json:
        print_json(facts.as_dict() | {"path": str(file), "truncated": facts.truncated})
        return
    print_lines(_shown(facts))
    if packages and facts.packages is not None:
        print_lines(["", *(f"@{name}" for name in facts.groups or ()), *facts.packages])


def verify(file: File, as_json: Json = False) -> None:
    """Read all of an ISO; exit 4 if nothing vouches for it."""
    from builder.pipeline import media_library as known

    done = known.verify(_there(file), search_path("pipelines"))
    if as_json:
        print_json(
            {"path": str(file), "sha256": done.sha256, "md5_verdict": done.md5, "pipelines": list(done.pipelines)}
        )
        return
    sums = {"good": "good: the implanted checksum holds", "none": "no checksum is implanted"}
    print_lines(
        [
            f"medium   {done.facts.volume_id}{' (rehearsal)' if done.facts.is_rehearsal else ''}",
            f"md5      {sums[done.md5]}",
            f"sha256   {done.sha256}",
            f"for      {_used_by(list(done.pipelines), done.facts.is_rehearsal)}",
        ]
    )


def inject(
    file: File, kickstart: WithKickstart, output: Output, unattended: Unattended = False, as_json: Json = False
) -> None:
    """Copy an ISO with a kickstart in it, for CDs and sticks.

    Its menu boots from the local disk unless somebody chooses the kickstart, or --unattended is given.
    """
    from builder.iso import boot_menu, remaster
    from builder.iso import inspect as iso_inspect
    from builder.kickstart import parse
    from builder.pipeline import media_library as known

    text = _kickstart(kickstart)
    _apart(_there(file), kickstart, output)
    reading = parse.read(text)
    given = iso_inspect.inspect(file)
    label = boot_menu.label_argument(given.volume_id)
    _require_packages(reading, file)
    # The copy gets a checksum of its own, which must not vouch for what is damaged already.
    known.require_sound(file, given)
    report = remaster.remaster(
        file,
        output,
        kickstart=text.encode(),
        kernel_args=(rf"inst.ks=hd:LABEL={label}:/ks.cfg", "inst.nosave=all"),
        menu="unattended" if unattended else "safe",
    )
    facts = iso_inspect.inspect(output)
    if as_json:
        told = {"unattended": unattended, "erases": reading.erases, "gpt": facts.gpt, "mbr": facts.mbr}
        print_json(report.as_dict() | told)
    else:
        print_lines(_injected(report, facts, reading, unattended))


def _injected(report: RemasterReport, facts: MediumFacts, reading: Kickstart, unattended: bool) -> list[str]:
    head = [f"written  {display_path(report.output)}", *_shown(facts)]
    head += _wrapped("changed", ", ".join(report.changed))
    if unattended:
        return [
            *head,
            "menu     starts the kickstart by itself after 1 s",
            "WARNING  any machine that boots this loses, without a question:",
            *_wrapped("", reading.erases),
        ]
    return [
        *head,
        "menu     boots from the local disk after 60 s; the kickstart's entry says",
        "         ERASES DISKS",
        *_wrapped("chosen", f"it clears {reading.erases}"),
    ]


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(text, 79, initial_indent=f"{title:9}", subsequent_indent=" " * 9)


def _shown(facts: MediumFacts) -> list[str]:
    """What people want to know of a medium."""
    from builder import console

    product = " ".join(word for word in (facts.product, facts.version, facts.arch) if word)
    boots = ", ".join(f"{entry.platform.upper()} ({entry.path or 'no name'})" for entry in facts.boot)
    stick = {None: "MBR", True: "MBR, GPT", False: "MBR, GPT (its checksums are wrong)"}[facts.gpt]
    # Plain names are there in any case; said where there are no better ones.
    kinds = {"Rock Ridge": facts.names == "rock ridge", "Joliet": facts.joliet}
    names = " and ".join(kind for kind, there in kinds.items() if there) or "plain ISO 9660 (8.3)"
    room = f"{console.size_text(facts.file_size)} ({facts.file_size} bytes, volume {facts.volume_size})"
    told = [
        f"volume   {facts.volume_id or 'has no name'}",
        f"product  {product or 'not told: no .treeinfo'}",
        f"size     {room}",
        f"files    {facts.files}, names by {names}",
        f"from CD  {boots or 'does not boot'}",
        f"as disk  {stick if facts.mbr else 'does not boot'}",
        f"md5      {f'{facts.md5} implanted' if facts.md5 else 'none implanted'}",
    ]
    if facts.packages is not None:
        told.append(f"content  {len(facts.packages)} packages, groups {', '.join(facts.groups or ()) or 'none'}")
    if facts.is_rehearsal:
        told.append("note     a rehearsal medium: not the vendor's")
    return told


def _facts(facts: dict[str, Any], path: Path, sha256: str) -> dict[str, Any]:
    return {"sha256": sha256, "path": str(path), **facts}


def _used_by(named: list[str], rehearsal: bool) -> str:
    if rehearsal:
        return "rehearsals (--media)"
    return ", ".join(named) or "no pipeline names it"


def _there(file: Path) -> Path:
    if not file.is_file():
        what = "not a file" if file.exists() else "no such file"
        raise MediumError(f"{what}: {file}", hint="give the path of an install ISO")
    return file


def _require_packages(given: Kickstart, medium: Path) -> None:
    """See that the medium has what the kickstart wants, where it is to come from nowhere else.

    Raises:
        RecipeError: the installer would stop at a question.
    """
    from builder.iso import inspect as iso_inspect
    from builder.kickstart import preflight

    if given.all("url", "nfs", "harddrive", "liveimg", "ostreesetup", "repo") or not given.complete:
        return
    missing = list(preflight.packages(given, iso_inspect.contents(medium)))
    if missing:
        raise RecipeError(
            "the kickstart does not fit the medium" if len(missing) > 1 else missing[0],
            "\n".join(missing) if len(missing) > 1 else "",
            "builder media inspect --packages shows what is on it",
        )


def _kickstart(path: Path) -> str:
    """The kickstart's text, which the installer's own parser accepts.

    Raises:
        RecipeError: it cannot be read, or has an error.
    """
    from builder.kickstart import render

    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise RecipeError(f"cannot read {path}", str(reason)) from None
    if "\r" in text:
        raise RecipeError(
            f"{path} has line ends of DOS: the installer's scripts would fail", hint=f"sed -i 's/\\r$//' {path}"
        )
    errors = [finding for finding in render.lint(text) if finding.severity == "error"]
    if errors:
        raise RecipeError(f"{path}: {errors[0]}", "\n".join(map(str, errors)), f"builder kickstart lint {path}")
    return text


def _apart(file: Path, kickstart: Path, output: Path) -> None:
    for given in (file, kickstart):
        if output.exists() and output.samefile(given):
            raise RecipeError(f"--output {output} is the file that is read", hint="give the new medium another name")
    if output.exists() and not output.is_file():
        raise RecipeError(
            f"--output {output} is no file", hint="write a file first; `cp FILE /dev/DISK` then puts it onto a stick"
        )
    if not output.parent.is_dir():
        raise RecipeError(f"--output {output}: there is no folder {output.parent}")
