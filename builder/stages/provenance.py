"""The provenance statement of an image: what was made from what, by what, and which checks it has passed.

Invariant: every fact comes from the records of the stages that made the image.
An in-toto Statement v1 (github.com/in-toto/attestation) with the SLSA v1 predicate (slsa.dev/spec/v1.0/provenance).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import builder
from builder.diagnosis import evidence
from builder.provenance.statement import PREDICATE, STATEMENT
from builder.stage import Secrets
from builder.stages import kickstart
from builder.store.objects import Record

# SLSA wants URIs here; these name kinds, and lead nowhere.
BUILD_TYPE = "tag:builder,2026:golden-image/v1"
# Longer texts, those of templates, stand in by their digests: a record says what went in, it is no copy of it.
LONG_TEXT = 200
BUILDER = "tag:builder,2026:builder"


def statement(
    subjects: Mapping[str, str],
    made: Mapping[str, Record],
    order: Mapping[str, Any],
    tools: Mapping[str, str],
    verified: Mapping[str, Any],
    secrets: Secrets,
) -> bytes:
    """Render the statement.

    Args:
        subjects: SHA-256 of each file of the version, by name.
        made: the record of each stage behind it, by name.
        order: what was asked for, by name: recipe, image, run.
        tools: versions, by name.
        verified: what the two booted copies showed.
    """
    given = {name: brief(made[name].inputs) for name in sorted(made)}
    began = min((record.created for record in made.values()), default="")
    twins = verified.get("twins", {})
    document = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(subjects.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {**order, "inputs": given},
                "internalParameters": {"stages": {name: made[name].digest for name in sorted(made)}},
                "resolvedDependencies": [_recipe(str(order["recipe"]), given), *_materials(made, secrets)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"builder": builder.__version__, **tools}},
                "metadata": {"invocationId": order["run"], "startedOn": began},
                "byproducts": [
                    {
                        "name": "checks",
                        "annotations": {role: twin.get("checks", []) for role, twin in sorted(twins.items())},
                    }
                ],
            },
        },
    }
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode()


def _recipe(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe, as what it gave to the stages: a comment in its file changes no image, and so no digest."""
    text = json.dumps(given, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return _material(f"recipes/{name}", _sha256(text), content="externalParameters.inputs, as canonical JSON")


def _materials(made: Mapping[str, Record], secrets: Secrets) -> list[dict[str, Any]]:
    """The medium, the kickstart and all templates, or the image that was built on; each by digest."""
    found = []
    if "fetch" in made:
        for name, file in sorted(made["fetch"].files.items()):
            if file.sha256:
                found.append(_material(f"medium/{name}", file.sha256))
    if "kickstart" in made:
        given = kickstart.KickstartInputs.model_validate(made["kickstart"].inputs)
        text = kickstart.render(given, root_crypt=secrets.root_crypt, token=made["kickstart"].digest)
        # As it is kept in runs/<id>/kickstart.cfg: without what lets somebody in.
        found.append(_material("kickstart.cfg", _sha256(evidence.masked(text, secrets)), masked=True))
        found += [_material(f"kickstarts/{name}", _sha256(text)) for name, text in sorted(given.templates.items())]
    if "provision" in made:
        inputs = made["provision"].inputs
        if inputs.get("base"):
            name, sha256 = inputs["base"]
            found.append(_material(f"images/{name}", sha256))
    return found


def _material(name: str, sha256: str, **annotations: Any) -> dict[str, Any]:
    more = {"annotations": annotations} if annotations else {}
    return {"name": name, "digest": {"sha256": sha256}, **more}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def brief(value: Any) -> Any:
    """Inputs of a stage with every long text replaced by its digest."""
    if isinstance(value, dict):
        return {name: brief(one) for name, one in value.items()}
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return f"sha256:{_sha256(value)}"
    return value
