"""The stage that renders or adapts the kickstart, and checks it.

Invariant: one recipe gives one kickstart, whatever the medium; a faulty kickstart starts no machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from builder import releases
from builder.diagnosis import evidence
from builder.errors import Cause, RecipeError, Source
from builder.kickstart import adapt as adapting
from builder.kickstart import demands, last_act, lint, parse
from builder.kickstart import render as template
from builder.kickstart.adapt import Adapted
from builder.kickstart.el7_rules import LintFinding
from builder.recipe.build_spec import BuildSpec
from builder.settings import OwnKickstart
from builder.stage import Inputs, Job, Stage, added
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL

FILE = "ks.cfg"
# The files that come along on the medium.
BESIDE = "files"
# Stands for the token where nothing is installed with the text.
NO_TOKEN = "0" * 64
# Among the templates: the text of a file that takes the place of %ksappend.
APPENDED = "%ksappend/"


class KickstartInputs(Inputs):
    """Everything the kickstart is made of.

    Args:
        own: it is somebody's own, not a template of builder's form.
        own_mac: HMAC of the own kickstart and the files beside it.
        networked: the install may use a network.
        release: whose checker has to accept it.
    """

    template: str
    templates: dict[str, str]
    vars: dict[str, Any]
    disk_serial: str
    password_mac: str
    own: bool = added(False)
    own_mac: str = added("")
    adapt: bool = added(False)
    files: tuple[str, ...] = added(())
    networked: bool = added(False)
    release: releases.Name = added(releases.DEFAULT)


def inputs(spec: BuildSpec) -> KickstartInputs:
    """Template texts, variables and the password's MAC.

    Raises:
        RecipeError: an own kickstart cannot be adapted, or lacks what builder demands.
    """
    chosen = spec.recipe.kickstart
    given = KickstartInputs(
        template=chosen.entry,
        templates=dict(spec.templates),
        vars=dict(chosen.vars),
        disk_serial=SYSTEM_DISK_SERIAL,
        password_mac=spec.password_mac,
        own=chosen.file is not None,
        own_mac=spec.own_mac,
        adapt=chosen.file is not None and chosen.adapt,
        files=chosen.files,
        networked=spec.recipe.install.network != "none",
        release=spec.recipe.release,
    )
    if given.own:
        made = make(given, root_crypt=evidence.MASK, token=NO_TOKEN)
        _require_adapted(given, made)
        if not given.adapt:
            _require(
                given, demands.unmet(made.text, given.disk_serial, NO_TOKEN, given.files), f"change {given.template}"
            )
    return given


def make(given: KickstartInputs, *, root_crypt: str, token: str, own: OwnKickstart | None = None) -> Adapted:
    """Render or adapt the kickstart; without `own` an own kickstart is made from its text as it is recorded, masked.

    Args:
        token: what the installer reports on ttyS1 when it came to its end.

    Raises:
        RecipeError: it cannot be rendered, or the variables are not those that the template wants.
    """
    variables = {**given.vars, "root_crypt": root_crypt, "disk_serial": given.disk_serial, "token": token}
    if not given.own or given.template.endswith(".j2"):
        text = template.render(given.templates, given.template, variables, given=given.vars)
    else:
        text = own.text if own is not None else given.templates[given.template]
    if not given.adapt:
        return Adapted(text, ())
    appended = {
        name.removeprefix(APPENDED): text for name, text in given.templates.items() if name.startswith(APPENDED)
    }
    if own is not None:
        appended = {name: own.files[name].decode("utf-8") for name in appended}
    terms = adapting.Terms(
        root_crypt=root_crypt,
        disk_serial=given.disk_serial,
        token=token,
        last_act=last_act.maker(given.templates, token),
        files=given.files,
        appended=appended,
        networked=given.networked,
    )
    return adapting.adapt(text, terms)


def render(given: KickstartInputs, *, root_crypt: str, token: str) -> str:
    """The kickstart text, as it is recorded."""
    return make(given, root_crypt=root_crypt, token=token).text


def run(job: Job[KickstartInputs]) -> None:
    """Render or adapt, and check; the file holds the password's hash, so it is readable by its owner only.

    Raises:
        RecipeError: the template cannot be rendered, the own kickstart was changed meanwhile, or there is an error in
            the result.
    """
    given, own = job.inputs, job.build.own
    if given.own_mac and (own is None or job.secrets.mac(own.content) != given.own_mac):
        raise RecipeError(f"{given.template} was changed while the run was under way", hint="run again")
    made = make(given, root_crypt=job.secrets.root_crypt, token=job.digest, own=own)
    evidence.write(job.evidence / evidence.KICKSTART, evidence.masked(made.text, job.secrets))
    _require_adapted(given, made)
    _require_included(given, made.text, own)
    for change in made.changes:
        was = f"`{change.was}` becomes " if change.was else "added "
        job.progress.note(
            evidence.masked(f"{given.template} line {change.line}: {was}`{change.now}`: {change.reason}", job.secrets)
        )
    findings = lint.lint(made.text, releases.RELEASES[given.release], beside=given.files)
    for finding in findings:
        if finding.severity == "warning":
            job.progress.note(f"kickstart {finding}")
    wrong = lint.errors(findings)
    hint = f"change {given.template}; the evidence has the {_form(given)} text as {evidence.KICKSTART}"
    if given.own:
        wrong += demands.unmet(made.text, given.disk_serial, job.digest, given.files)
    if given.own and not given.networked and (remote := demands.remote(made.text)):
        wrong += remote
        hint += f"\n{demands.TO_A_NETWORK}"
    _require(given, wrong, hint)
    file = job.out / FILE
    file.touch(mode=0o400)
    file.chmod(0o600)
    file.write_text(made.text, encoding="utf-8")
    file.chmod(0o400)
    if own is not None and own.files:
        (job.out / BESIDE).mkdir(mode=0o700)
        for name, content in own.files.items():
            (job.out / BESIDE / name).touch(mode=0o600)
            (job.out / BESIDE / name).write_bytes(content)
            (job.out / BESIDE / name).chmod(0o400)


def beside(folder: Path) -> dict[str, bytes]:
    """Return the files that go onto the medium beside the kickstart, from the stage's finished object."""
    found = folder / BESIDE
    return {path.name: path.read_bytes() for path in sorted(found.iterdir())} if found.is_dir() else {}


def _require_adapted(given: KickstartInputs, made: Adapted) -> None:
    if made.refused:
        raise not_adapted(given.template, made)


def not_adapted(name: str, made: Adapted) -> RecipeError:
    """Return the error that tells why a kickstart cannot be adapted."""
    lines = [f"line {refusal.line}: {refusal.reason}" for refusal in made.refused]
    return _fault(f"{name} cannot be adapted", lines, f"change {name}; `builder kickstart adapt` tries it")


def _fault(brief: str, lines: Sequence[str], hint: str) -> RecipeError:
    """Return the error: one fault stands in its first line, several stand below it."""
    return RecipeError(
        f"{brief}: {lines[0] if len(lines) == 1 else f'{len(lines)} faults'}",
        "\n".join(lines) if len(lines) > 1 else "",
        hint,
        cause=Cause.KICKSTART_ERROR,
        source=Source.KICKSTART,
    )


def _require_included(given: KickstartInputs, text: str, own: OwnKickstart | None) -> None:
    """Check that no file which the kickstart includes says what would have to be adapted: files are not changed.

    Raises:
        RecipeError: naming each line.
    """
    if own is None or not given.adapt:
        return
    commands = parse.read(text).all("%include")
    names = [name for name in own.files if any(adapting.BESIDE + f"/{name}" in one.words for one in commands)]
    lines = []
    for name in names:
        part = own.files[name].decode("utf-8", "replace")
        made = adapting.adapt(
            part, adapting.Terms("", given.disk_serial, "", lambda _: "%post\n%end", networked=given.networked)
        )
        lines += [f"{name}:{refusal.line}: {refusal.reason}" for refusal in made.refused]
        lines += [f"{name}:{change.line}: {change.reason}" for change in made.changes if change.was]
    if lines:
        hint = f"put these lines into {given.template}, where they are adapted"
        raise RecipeError(
            "an included file has what builder must adapt", "\n".join(lines), hint, source=Source.KICKSTART
        )


def _require(given: KickstartInputs, wrong: Iterable[LintFinding], hint: str) -> None:
    told = sorted(dict.fromkeys(wrong), key=lambda finding: finding.line or 0)
    if told:
        raise _fault(f"{given.template}, {_form(given)}", [str(finding) for finding in told], hint)


def _form(given: KickstartInputs) -> str:
    """In which form a text is that lines are counted in."""
    return "adapted" if given.adapt else "as it is" if given.own and not given.template.endswith(".j2") else "rendered"


STAGE = Stage("kickstart", 2, (), inputs, run, "render and check the kickstart", intermediate=True)
