"""The section `kickstart` of a recipe.

Invariant: it names a template of builder's form or somebody's own file, never both.
"""

from __future__ import annotations

from pydantic import Field, StrictBool, field_validator, model_validator

from builder.recipe.section import Fault, Section, SectionError
from builder.recipe.types import FileName, Template
from builder.recipe.variables import Variable, check_variable


class KickstartSection(Section):
    """The kickstart: a template and the values it is filled with, or somebody's own file, adapted to builder.

    Args:
        template: name of a file in `kickstarts/`, complete as builder needs it.
        file: name of an own kickstart in `kickstarts/` or beside the recipe, instead of `template`; it is filled in as
            a template only if its name ends with `.j2`.
        files: names of files beside it that are put on the medium, for `%include` and scripts.
        adapt: change in `file` what builder needs otherwise, as `builder kickstart adapt` shows; without it the file
            has to bring all that itself.
        vars: values of the template's variables, by name; a secret is refused.
    """

    template: Template | None = None
    file: FileName | None = None
    files: tuple[Template, ...] = ()
    adapt: StrictBool = True
    vars: dict[str, Variable] = Field(default_factory=dict)

    @property
    def entry(self) -> str:
        """Name of the file that is the kickstart, or is made into it."""
        return self.template or self.file or ""

    @property
    def plain(self) -> bool:
        """True if the file is the kickstart as it is, and nothing is filled in."""
        return self.file is not None and not self.file.endswith(".j2")

    @model_validator(mode="after")
    def _one_of_two(self) -> KickstartSection:
        faults: list[Fault] = []
        if self.template is None and self.file is None:
            faults.append(((("template",), ("file",)), "is missing (or `file`, for a kickstart of your own)"))
        if self.template is not None:
            given = {"file": self.file, "files": self.files, "adapt": not self.adapt}
            faults += [(((name,),), "has no use beside template") for name, value in given.items() if value]
        if self.plain and self.vars:
            faults.append(((("vars",),), "a kickstart is filled in only if its name ends with .j2"))
        if reserved := [name for name in self.files if name in (self.file, "ks.cfg")]:
            faults.append(((("files",),), f"{reserved[0]}: the kickstart itself is on the medium as ks.cfg anyway"))
        if faults:
            raise SectionError(faults)
        return self

    @field_validator("vars", mode="before")
    @classmethod
    def _safe(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        faults = [(((name,),), text) for name, value in given.items() if (text := check_variable(name, value))]
        if faults:
            raise SectionError(faults)
        return given
