"""Whether an artifact is what was asked for: by its name, its version, and its age beside what is known here.

A signature says who made an image, not that it is the one that was meant: a registry could answer any tag with any
other image that the same key has signed, such as last year's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from builder.errors import VerifyError
from builder.images.catalogue import Image
from builder.images.manifest import VERSION_DIGITS, Manifest
from builder.registry.client import Reference


def require_name(address: Reference, facts: Manifest, name: str | None, *, signed: bool) -> None:
    """Check that the image has the name and the version that were asked for.

    Args:
        name: that it has to have; None means the last part of the address, which only counts where signatures do.
        signed: a signature is asked for.

    Raises:
        VerifyError: it has another name, or another version than the tag says.
    """
    wanted = name or (address.repository.rpartition("/")[2] if signed else facts.name)
    if facts.name != wanted:
        hint = f"if that is the image you want: builder images pull {address} --name {facts.name}"
        raise VerifyError(f"{address} is {facts.name}@{facts.version}, and not an image named {wanted}", hint=hint)
    if _names_version(address) and not address.digest and address.tag != facts.version:
        raise VerifyError(
            f"{address} is {facts.name}@{facts.version}, and not version {address.tag}",
            "the tag of a version never moves: the registry, or somebody who may write to it, has changed it",
        )


def compare_age(address: Reference, facts: Manifest, known: Iterable[Image], *, signed: bool) -> str | None:
    """Compare an image with the newest one of its name here.

    Returns:
        What to say of it: that it is older, or that its date cannot be right; None when there is nothing to say.

    Raises:
        VerifyError: a signature is asked for, and what bears a tag that moves is older than what is known here.
    """
    others = [image for image in known if image.version != facts.version and image.facts.credible]
    newest = max(others, key=lambda image: image.facts.age, default=None)
    if newest is None or facts.age >= newest.facts.age:
        return None if facts.credible else f"{facts.name}@{facts.version} was created {facts.created}, in the future"
    spoken, date = f"{facts.name}@{facts.version}", f"{facts.created:%Y-%m-%d}"
    if facts.credible:
        what = f"{spoken} of {date} is older than {newest.name}@{newest.version}, which is here"
    else:
        what = f"{spoken} was created {date}, in the future, and does not count as newer than {newest.version}"
    if signed and not _names_version(address):
        hint = f"if you want it all the same: builder images pull oci://{address.name}:{facts.version} --signed"
        raise VerifyError(what, "a registry can answer a tag with an older image that has the same signature", hint)
    return what


def _names_version(address: Reference) -> bool:
    """Return whether an address names one version for good."""
    return bool(address.digest or re.fullmatch(rf"[0-9a-f]{{{VERSION_DIGITS}}}", address.tag or ""))
