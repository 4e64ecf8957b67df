"""Copy an install medium with a kickstart in it.

Invariant: neither the medium nor the kickstart that was given is written to.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from builder import releases
from builder.errors import RecipeError
from builder.iso import boot_menu, inspect, remaster
from builder.iso.inspect import MediumFacts
from builder.iso.layout import with_hint
from builder.iso.remaster import RemasterReport
from builder.kickstart import lint, parse, preflight
from builder.kickstart.parse import Kickstart
from builder.pipeline import media_library
from builder.recipe import text_faults
from builder.releases import Release


@dataclass(frozen=True)
class Injected:
    """A new medium.

    Args:
        facts: of the new medium.
        erases: the disks that the kickstart clears, in words.
    """

    report: RemasterReport
    facts: MediumFacts
    erases: str


def inject(medium: Path, kickstart: Path, output: Path, *, unattended: bool) -> Injected:
    """Copy a medium to `output`, with the kickstart as /ks.cfg and in its boot menu.

    Args:
        unattended: the menu starts the kickstart by itself; else it boots from the local disk.

    Raises:
        RecipeError: the kickstart has an error or does not fit the medium, or a path cannot be used.
        MediumError: the medium is damaged.
    """
    text = parse.load(kickstart)
    if fault := text_faults.of_kickstart(text):
        raise RecipeError(f"{kickstart} {fault.what}", fault.why, fault.command(kickstart))
    _require_apart(medium, kickstart, output)
    facts = inspect.inspect(medium)
    _require_no_errors(kickstart, text, releases.of_version(facts.version) or releases.RELEASES[releases.DEFAULT])
    reading = parse.read(text)
    label = boot_menu.label_argument(facts.volume_id)
    _require_packages(reading, medium)
    # The copy gets a checksum of its own, which must not cover up existing damage.
    media_library.require_sound(medium, facts)
    # The installer looks for a kickstart on a medium of this name by itself (Anaconda's OEMDRV).
    second = f"xorriso -as mkisofs -R -V OEMDRV -graft-points -o OEMDRV.iso /ks.cfg={shlex.quote(str(kickstart))}"
    with with_hint(f"take the vendor's own medium; or put the kickstart on a second CD or stick beside it: {second}"):
        report = remaster.remaster(
            medium,
            output,
            kickstart=text.encode(),
            kernel_args=(rf"inst.ks=hd:LABEL={label}:/ks.cfg", "inst.nosave=all"),
            menu="unattended" if unattended else "safe",
        )
    return Injected(report, inspect.inspect(output), reading.erases)


def _require_no_errors(path: Path, text: str, release: Release) -> None:
    errors = lint.errors(lint.lint(text, release))
    if errors:
        hint = f"builder kickstart lint {path} --release {release.name}"
        raise RecipeError(f"{path}: {errors[0]}", "\n".join(map(str, errors)), hint)


def _require_apart(medium: Path, kickstart: Path, output: Path) -> None:
    for given in (medium, kickstart):
        if output.exists() and output.samefile(given):
            raise RecipeError(f"--output {output} is the file that is read", hint="give the new medium another name")
    if output.exists() and not output.is_file():
        raise RecipeError(
            f"--output {output} is not a file",
            hint="write a file first; `cp FILE /dev/DISK` then puts it onto a stick",
        )
    if not output.parent.is_dir():
        raise RecipeError(f"--output {output}: there is no folder {output.parent}")


def _require_packages(kickstart: Kickstart, medium: Path) -> None:
    """Check that the medium has the packages that the kickstart takes from it.

    Raises:
        RecipeError: the installer would stop at a question.
    """
    if kickstart.all("url", "nfs", "harddrive", "liveimg", "ostreesetup", "repo") or not kickstart.complete:
        return
    missing = [finding.text for finding in preflight.packages(kickstart, inspect.contents(medium))]
    if missing:
        raise RecipeError(
            "the kickstart does not fit the medium" if len(missing) > 1 else missing[0],
            "\n".join(missing) if len(missing) > 1 else "",
            "builder media inspect --packages shows what is on it",
        )
