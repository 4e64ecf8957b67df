"""The catalogue of golden images; it is changed only here, and every change is one rename."""

from builder.images.catalogue import (
    LATEST,
    MANIFEST,
    PROVENANCE,
    SBOM,
    SUMS,
    VERSION_DIGITS,
    Image,
    list_images,
    load_image,
    publish,
)
from builder.images.diff import Changes, Difference, compare
from builder.images.export import KINDS, Kind, default_name, export
from builder.images.references import Use, User, enter, leave, users_of, using
from builder.images.retention import Pruned, delete_torn, prune
from builder.images.rollback import held_version, previous, release, roll_back
from builder.images.verify import (
    VerificationResult,
    require_signature,
    unreadable_verifications,
    verifications,
    verify_version,
    versions,
)

__all__ = [
    "KINDS",
    "LATEST",
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
    "roll_back",
    "unreadable_verifications",
    "users_of",
    "using",
    "verifications",
    "verify_version",
    "versions",
]
