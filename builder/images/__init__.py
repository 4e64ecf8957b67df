"""The catalogue of golden images; it is changed only here, and every change is one rename.

`builder.images.export` is apart: only its command pays for what it takes to start.
"""

from builder.images.catalogue import (
    LATEST,
    PROVENANCE,
    SBOM,
    SUMS,
    Image,
    list_images,
    load_image,
    publish,
    survey,
)
from builder.images.diff import Changes, Difference, compare
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
    "Pruned",
    "Use",
    "User",
    "VerificationResult",
    "built_here",
    "compare",
    "delete_torn",
    "enter",
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
    "survey",
    "unreadable_verifications",
    "users_of",
    "using",
    "verifications",
    "verify_version",
    "versions",
]
