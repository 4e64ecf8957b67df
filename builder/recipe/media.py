"""The section `media` of a recipe: the ISOs that it accepts, and what vouches for them."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, model_validator

from builder.recipe.section import Section, SectionError
from builder.recipe.types import ChecksumList, Fingerprint, Sha256, Url
from builder.releases import Delivery

# Vendors that publish lists of checksums without a signature, by domain. Source: rocky-linux/sig-core-toolkit,
# templates/README.tmpl.
UNSIGNED = {"rockylinux.org": "Rocky Linux signs no list of checksums"}


class IsoSource(Section):
    """One install ISO that the recipe accepts, and where it can be downloaded.

    Args:
        sha256: of the ISO file; one without it is not built from: `builder recipes new` writes it down.
        urls: mirrors, in the order in which they are tried; without any, the ISO is given with `--media`.
    """

    sha256: Sha256 | None = None
    urls: tuple[Url, ...] = Field(default=(), min_length=1)

    @model_validator(mode="after")
    def _says_something(self) -> IsoSource:
        if self.sha256 is None and not self.urls:
            raise SectionError([((("sha256",),), "is missing: a source needs a sha256, or urls to get the ISO from")])
        return self


class Media(Section):
    """The install media.

    Args:
        sources: the ISOs that the recipe accepts; the first one is the preferred one.
        checksums: the vendor's list of checksums, which has to name the ISO: a URL, or a file's name beside the ISO.
        signed_by: fingerprint of the key that signs that list (`sha256sum.txt.asc` if none is named), within it or in a
            file beside it; without it the sha256 alone decides.
        delivery: how the kickstart reaches the installer: in a rewritten ISO, or on a second CD (a seed) beside it; by
            default `remaster` for el7, and `seed` for all later releases.
    """

    sources: tuple[IsoSource, ...] = Field(min_length=1)
    checksums: ChecksumList | None = None
    signed_by: Fingerprint | None = None
    delivery: Delivery | None = None

    @model_validator(mode="after")
    def _sources_differ(self) -> Media:
        seen: set[str] = set()
        faults = []
        for index, source in enumerate(self.sources):
            if source.sha256 in seen:
                faults.append(((("sources", index, "sha256"),), "the same medium is listed before: join their urls"))
            seen |= {source.sha256} if source.sha256 else set()
        if faults:
            raise SectionError(faults)
        return self

    @model_validator(mode="after")
    def _signed_where_the_vendor_signs(self) -> Media:
        hosts = [urlsplit(url).hostname or "" for source in self.sources for url in source.urls]
        for domain, reason in UNSIGNED.items():
            if self.signed_by and any(f".{host}".endswith(f".{domain}") for host in hosts):
                raise SectionError([((("signed_by",),), f"{reason}: the sha256 decides; remove this line")])
        return self
