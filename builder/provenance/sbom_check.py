"""Check a bill of materials against its image; apart from `sbom`, whose library takes 0.2 s to load."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

# Version of CycloneDX.
SPEC = "1.6"


def fault(text: bytes, sha256: str) -> str | None:
    """Say why this is not the bill of materials of that disk; None if it is."""
    try:
        bill: Any = from_json(text, allow_inf_nan=False)
        image = bill["metadata"]["component"]
        if (bill["bomFormat"], bill["specVersion"]) != ("CycloneDX", SPEC):
            raise KeyError(SPEC)
        return None if {"alg": "SHA-256", "content": sha256} in image["hashes"] else "it is not of this disk"
    except (ValueError, TypeError, KeyError):
        return f"it is not CycloneDX {SPEC}"
