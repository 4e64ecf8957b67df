"""The bill of materials of an image as CycloneDX.

Invariant: it lists what the booted copies showed, in the same bytes each time.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import builder

# Of the serial numbers; any fixed UUID does (RFC 9562, section 6.6).
_SPACE = uuid.UUID("6f5d2e7c-24f5-4bb0-8a57-30f0d5b2a1c4")


def render(name: str, version: str, sha256: str, created: datetime, packages: Sequence[str], os: str = "") -> bytes:
    """The bill of materials of an image, CycloneDX 1.6, JSON.

    Args:
        sha256: of the disk.
        created: when the disk was sealed; a second rendering is the same bytes.
        packages: `name version-release`, as rpm prints them.
        os: `rocky-9.8`; vendor and distribution of the packages (purl-spec, types/rpm: namespace and `distro`).
    """
    image = Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=name,
        version=version,
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )
    bom = Bom(serial_number=uuid.uuid5(_SPACE, sha256))
    bom.metadata.timestamp = created
    bom.metadata.component = image
    bom.metadata.tools.components.add(
        Component(type=ComponentType.APPLICATION, name="builder", version=builder.__version__, bom_ref="builder")
    )
    parts = []
    vendor = os.partition("-")[0]
    for line in packages:
        package, _, evr = line.partition(" ")
        purl = PackageURL("rpm", vendor or None, package, evr, {"distro": os} if os else None)
        parts.append(
            Component(type=ComponentType.LIBRARY, name=package, version=evr, purl=purl, bom_ref=purl.to_string())
        )
    bom.components.update(parts)
    bom.register_dependency(image, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode() + b"\n"
