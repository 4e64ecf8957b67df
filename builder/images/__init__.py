"""The catalogue of golden images; it is changed only here, and every change is one rename."""

from builder.images.catalogue import (
    LATEST,
    PROVENANCE,
    SBOM,
    SUMS,
    Image,
    list_images,
    load_image,
    publish,
    unreadable,
)
from builder.images.diff import Changes, Difference, compare
from builder.images.export import KINDS, Kind, default_name, export
from builder.images.manifest import MANIFEST, VERSION_DIGITS
from builder.images.origins import LOCAL, built_here
from builder.images.references import Use, User, enter, leave, users_of, using
from builder.images.retention import Pruned, delete_torn, prune
from builder.images.rollback import held_version, previous, release, roll_back
from builder.images.verification_record import VerificationResult, unreadable_verifications, verifications
from builder.images.verify import (
    require_signature,
    require_signed,
    verify_version,
    versions,
)

__all__ = [
    "KINDS",
    "LATEST",
    "LOCAL",
    "MANIFEST",
    "PROVENANCE",
    "SBOM",
    "SUMS",
    "VERSION_DIGITS",
    "Changes",
    "Difference",
    "Image",
    "Kind",
    "Pruned",
    "Use",
    "User",
    "VerificationResult",
    "built_here",
    "compare",
    "default_name",
    "delete_torn",
    "enter",
    "export",
    "held_version",
    "leave",
    "list_images",
    "load_image",
    "previous",
    "prune",
    "publish",
    "release",
    "require_signature",
    "require_signed",
    "roll_back",
    "unreadable",
    "unreadable_verifications",
    "users_of",
    "using",
    "verifications",
    "verify_version",
    "versions",
]
