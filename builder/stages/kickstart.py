"""The stage that renders and checks the kickstart.

Invariant: one recipe gives one kickstart, whatever the medium; a faulty kickstart starts no machine.
"""

from __future__ import annotations

from typing import Any

from builder import releases
from builder.diagnosis import evidence
from builder.errors import Cause, RecipeError, Source
from builder.kickstart import render as template
from builder.recipe.build_spec import BuildSpec
from builder.stage import Inputs, Job, Stage, added
from builder.vm.domain_xml import SYSTEM_DISK_SERIAL

FILE = "ks.cfg"


class KickstartInputs(Inputs):
    """Everything the kickstart is made of, and the release whose checker has to accept it."""

    template: str
    templates: dict[str, str]
    vars: dict[str, Any]
    disk_serial: str
    password_mac: str
    release: releases.Name = added(releases.DEFAULT)


def inputs(spec: BuildSpec) -> KickstartInputs:
    """Template texts, variables and the password's MAC.

    Raises:
        RecipeError: the variables are not those that the template wants.
    """
    chosen = spec.recipe.kickstart
    template.check_variables(spec.templates, chosen.vars)
    return KickstartInputs(
        template=chosen.template,
        templates=dict(spec.templates),
        vars=dict(chosen.vars),
        disk_serial=SYSTEM_DISK_SERIAL,
        password_mac=spec.password_mac,
        release=spec.recipe.release,
    )


def render(given: KickstartInputs, *, root_crypt: str, token: str) -> str:
    """The kickstart text; `token` is what the installer reports on ttyS1 when it came to its end."""
    own = {"root_crypt": root_crypt, "disk_serial": given.disk_serial, "token": token}
    return template.render(given.templates, given.template, {**given.vars, **own})


def run(job: Job[KickstartInputs]) -> None:
    """Render and lint; the file holds the password's hash, so it is readable by its owner only.

    Raises:
        RecipeError: the template cannot be rendered or the checker finds an error in the result.
    """
    text = render(job.inputs, root_crypt=job.secrets.root_crypt, token=job.digest)
    evidence.write(job.evidence / evidence.KICKSTART, evidence.masked(text, job.secrets))
    findings = template.lint(text, releases.RELEASES[job.inputs.release])
    for finding in findings:
        if finding.severity == "warning":
            job.progress.note(f"kickstart {finding}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise RecipeError(
            f"kickstart: {errors[0]}",
            "\n".join(f"{job.inputs.template}, rendered: {error}" for error in errors),
            f"see the rendered text: {job.evidence / 'kickstart.cfg'}",
            cause=Cause.KICKSTART_ERROR,
            source=Source.KICKSTART,
        )
    file = job.out / FILE
    file.touch(mode=0o400)
    file.chmod(0o600)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o400)


STAGE = Stage("kickstart", 1, (), inputs, run, "render and check the kickstart", intermediate=True)
