"""The form of a statement of provenance: an in-toto Statement v1 with the SLSA v1 predicate, and what it is about."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

# github.com/in-toto/attestation, spec/v1/statement.md; slsa.dev/spec/v1.0/provenance
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"


class _Digests(BaseModel):
    sha256: str


class _Subject(BaseModel):
    name: str
    digest: _Digests


class _Statement(BaseModel):
    """The parts of a statement that are read. One of another type, such as a test result, names no origins."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(alias="predicateType")
    subject: list[_Subject]


def subjects(payload: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file that a statement of provenance is about, by name.

    Raises:
        ValueError: it is not a statement of provenance.
    """
    return {one.name: one.digest.sha256 for one in _Statement.model_validate_json(payload).subject}
