"""The sections of a recipe as models, and every check that one section needs.

Invariant: a recipe says WHAT to build; a model that exists is right in every value, so that no later code looks again.
How single values are written is in `builder.recipe.types`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from builder import releases
from builder.recipe.kickstart_section import KickstartSection
from builder.recipe.media import Media
from builder.recipe.section import Fault, Section, SectionError
from builder.recipe.types import (
    GIB,
    BaseName,
    Command,
    Duration,
    FileMode,
    GuestPath,
    Name,
    NetworkName,
    Place,
    Playbook,
    Size,
    SourceName,
    Title,
    whole_mib,
)

# The catalogue keeps rehearsals apart under this ending.
REHEARSAL = "-rehearsal"


class MachineSection(Section):
    """The virtual hardware, the same for the install and for the test VMs.

    Args:
        vcpus: number of virtual processors, 1 to 255.
        memory: at least `64MiB`, in whole MiB.
        firmware: `uefi` is UEFI without Secure Boot.
        devices: `virtio` is paravirtual; `emulated` is SATA and e1000 with `q35`, IDE and e1000 with `pc`.
        machine: QEMU's machine type.
        cpu: the least CPU that the installed programs run on; by default the release's. For builds for older CPUs.
    """

    vcpus: StrictInt = Field(default=2, ge=1, le=255)
    memory: Size = 2 * GIB
    firmware: Literal["bios", "uefi"] = "bios"
    devices: Literal["virtio", "emulated"] = "virtio"
    machine: Literal["q35", "pc"] = "q35"
    cpu: releases.Cpu | None = None

    @field_validator("memory")
    @classmethod
    def _whole(cls, value: int) -> int:
        return whole_mib(value, least=64)

    @field_validator("firmware", mode="before")
    @classmethod
    def _without_secure_boot(cls, value: object) -> object:
        if isinstance(value, str) and re.search(r"secure|[-_]?sb$", value, re.I):
            raise ValueError(
                f"{value!r}: there is no Secure Boot here: the shim of 2020 may be revoked, and a kernel started "
                "directly (delivery: seed) has none; `uefi` goes without"
            )
        return value


class DiskSection(Section):
    """The one disk that is installed to.

    Args:
        size: in whole MiB.
    """

    size: Size = 8 * GIB

    @field_validator("size")
    @classmethod
    def _whole(cls, value: int) -> int:
        return whole_mib(value, least=1)


class Install(Section):
    """Settings of the installer's run.

    Args:
        network: what the installer may reach: `none`, or the network of this kind. With one, packages come from
            wherever the kickstart says: the same recipe may give another image tomorrow, and the manifest says so.
    """

    network: Literal["none", "user", "nat", "bridge"] = "none"


class Network(Section):
    """The network of the test VMs; the install has none unless `install.network` gives it one.

    Args:
        mode: `user` needs nothing; `nat` and `bridge` need qemu:///system and a network of the host.
        name: the libvirt network (`nat`, default: `default`) or the host's bridge (`bridge`, default: `br0`).
    """

    mode: Literal["user", "nat", "bridge"] = "user"
    name: NetworkName | None = None

    @model_validator(mode="after")
    def _named_where_it_has_a_name(self) -> Network:
        if self.mode == "user" and self.name is not None:
            raise SectionError([((("name",), ("mode",)), "the mode `user` has no name: set mode to nat or bridge")])
        return self


class Limits(Section):
    """Time limits on a host with KVM; without KVM they are scaled by four.

    Args:
        install: the whole installation.
        quiet: how long the installer may show no sign of life.
        boot: until root can log in to a test VM.
    """

    install: Duration = 3600
    quiet: Duration = 600
    boot: Duration = 300

    @model_validator(mode="after")
    def _sensible(self) -> Limits:
        faults: list[Fault] = [(((name,),), "must be at least 1s") for name, value in self if value < 1]
        if self.quiet > self.install:
            text = f"quiet ({self.quiet} s) is longer than install ({self.install} s)"
            faults.append(((("quiet",), ("install",)), text))
        if faults:
            raise SectionError(faults)
        return self


class Check(Section):
    """A shell command that must exit 0 in both test VMs.

    Args:
        name: for messages and for `verify.json`; each name once.
        run: the command, as root.
    """

    name: Title
    run: Command


class Verify(Section):
    """Requirements on the finished image besides the root login, and exceptions to the secret scan.

    Args:
        checks: commands that must succeed.
        allow_private_keys: files that may hold private keys, or folders with all that is in them. A file that is just
            what its package brought need not be named; a key in any other file, or in none, fails the build.
    """

    checks: tuple[Check, ...] = ()
    allow_private_keys: tuple[GuestPath, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Verify:
        names = [check.name for check in self.checks]
        faults = [
            ((("checks", index, "name"),), f"a second check named {name!r}")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        if faults:
            raise SectionError(faults)
        return self


class Publish(Section):
    """Settings of publishing.

    Args:
        compression: of the published disk; `zlib` can be read by QEMU before 5.1, too.
        keep: number of versions that stay; the latest, the held and the used ones stay besides.
    """

    compression: Literal["zstd", "zlib"] = "zstd"
    keep: StrictInt = Field(default=7, ge=1)


class File(Section):
    """A file of the folder `provision` that is copied into the guest.

    Args:
        source: name of the file below `provision`.
        path: where it goes in the guest.
        mode: its permissions.
    """

    source: SourceName
    path: GuestPath
    mode: FileMode = "0644"


class Provision(Section):
    """Changes to the installed system before it is sealed: files, then scripts, then an Ansible playbook.

    Args:
        files: what is copied into the guest first.
        scripts: files of the folder `provision`, run as root in this order; each must exit 0.
        playbook: `folder/playbook.yml` below `provision`; the whole folder counts.
    """

    files: tuple[File, ...] = ()
    scripts: tuple[SourceName, ...] = ()
    playbook: Playbook | None = None

    @property
    def wanted(self) -> bool:
        """Anything is to be done."""
        return bool(self.files or self.scripts or self.playbook)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of files and folders below `provision`."""
        folder = (self.playbook.partition("/")[0],) if self.playbook else ()
        return (*(one.source for one in self.files), *self.scripts, *folder)


class Budget(Section):
    """Limits on the image; one that exceeds them is not published.

    Args:
        size: of the sealed disk.
        boot: until root is logged in, in the slower test VM; meant for a host with KVM.
        packages: how many may be installed.
    """

    size: Size | None = None
    boot: Duration | None = None
    packages: Annotated[StrictInt, Field(ge=1)] | None = None


class Recipe(Section):
    """One pipeline: everything that decides what the golden image is.

    Args:
        name: of the pipeline and of its image; it may not end with `-rehearsal`.
        variant: follows the name in the catalogue, for an image that differs by `--set` or by the matrix.
        release: of Enterprise Linux (RHEL, Rocky Linux, AlmaLinux, CentOS, Oracle Linux) or Fedora that is installed.
        from_: a published image to build on, instead of `media` and `kickstart`; exactly one of the two ways is given.
        warm: two instant clones have to pass as the two test VMs do, and the published version gets a warm state.
        matrix: values of other keys, by their dotted place; a nightly run builds each combination as a variant.
    """

    name: Name
    variant: Name | None = None
    release: releases.Name = releases.DEFAULT
    from_: BaseName | None = Field(default=None, alias="from")
    media: Media = Field(default=None, validate_default=True)
    kickstart: KickstartSection = Field(default=None, validate_default=True)
    machine: MachineSection = MachineSection()
    disk: DiskSection = DiskSection()
    network: Network = Network()
    install: Install = Install()
    limits: Limits = Limits()
    verify: Verify = Verify()
    publish: Publish = Publish()
    provision: Provision = Provision()
    budget: Budget = Budget()
    warm: StrictBool = False
    matrix: dict[Place, Annotated[tuple[StrictBool | StrictInt | StrictStr, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )

    @property
    def image(self) -> str:
        """Name in the catalogue, without the ending of rehearsals."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def facts(self) -> releases.Release:
        """Facts about the recipe's release."""
        return releases.RELEASES[self.release]

    @property
    def has_medium(self) -> bool:
        """Return whether it can be built as it is: it names the sha256 of a medium, or an image to build on."""
        return self.from_ is not None or any(source.sha256 for source in self.media.sources)

    @property
    def delivery(self) -> releases.Delivery:
        """Delivery of the kickstart to the installer."""
        return self.media.delivery or self.facts.delivery

    @property
    def cpu(self) -> releases.Cpu:
        """The least CPU that the installed programs run on."""
        return self.machine.cpu or self.facts.cpu

    @field_validator("media", "kickstart", mode="wrap")
    @classmethod
    def _installs_or_builds_on(cls, value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        builds_on = info.data.get("from_", "")
        if value is None and builds_on == "":
            return None  # `from` itself is at fault
        if value is None and builds_on is None:
            raise ValueError("is missing")
        if value is not None and builds_on:
            raise ValueError(f"has no use beside from: {builds_on}")
        return check(value) if value is not None else None

    @field_validator("warm")
    @classmethod
    def _can_be_saved(cls, value: bool, info: ValidationInfo) -> bool:
        machine = info.data.get("machine")
        if value and machine is not None and machine.firmware == "uefi":
            raise ValueError("QEMU cannot save a running machine with UEFI inside its disk: leave it out")
        return value

    @field_validator("from_")
    @classmethod
    def _no_rehearsal_below(cls, value: str | None) -> str | None:
        if value and value.partition("@")[0].endswith(REHEARSAL):
            raise ValueError(f"{value!r} is a rehearsal: name the image it is one of, and run with --media rehearsal")
        return value

    @field_validator("name")
    @classmethod
    def _not_a_rehearsal(cls, value: str) -> str:
        if value.endswith(REHEARSAL):
            raise ValueError(f"{value!r} ends with {REHEARSAL}, which is kept for rehearsals of other pipelines")
        return value

    @field_validator("variant")
    @classmethod
    def _not_called_rehearsal(cls, value: str | None) -> str | None:
        if value is not None and f"-{value}".endswith(REHEARSAL):
            raise ValueError(f"{value!r} ends with {REHEARSAL[1:]}, which is kept for rehearsals")
        return value


def schema() -> dict[str, Any]:
    """JSON schema of a recipe file, for editors."""
    whole = Recipe.model_json_schema()
    for part in whole["$defs"].values():
        part["description"] = part["description"].partition("\n\n")[0]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "builder recipe"}
    return {**head, **{key: value for key, value in whole.items() if key != "title"}}
