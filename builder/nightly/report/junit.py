"""The one rule: a build is a test case, so that every CI system can count, sort and remember it.

The form is that of Ant's JUnit task, as GitLab and others read it (docs.gitlab.com, "Unit test reports").
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from builder.nightly.record import Night, Result

# XML 1.0, section 2.2: no other control character may stand in a document, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(night: Night) -> bytes:
    """The night as a JUnit document."""
    results = night.results
    counts = {
        "tests": len(results),
        "failures": sum(result.verdict in ("failed", "rotten") for result in results),
        "errors": sum(result.verdict == "interrupted" for result in results),
        "skipped": sum(result.verdict == "not built" for result in results),
    }
    numbers = {key: str(value) for key, value in counts.items()} | {"time": f"{night.seconds:.3f}"}
    root = ElementTree.Element("testsuites", {"name": "builder nightly", **numbers})
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {"name": "builder nightly", "timestamp": night.started[:19], "hostname": night.host, **numbers},
    )
    if night.rehearsal:
        properties = ElementTree.SubElement(suite, "properties")
        ElementTree.SubElement(properties, "property", {"name": "rehearsal", "value": "true"})
    for result in results:
        _case(suite, result)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ElementTree.Element, result: Result) -> None:
    facts = {"classname": result.pipeline, "name": result.name, "time": f"{result.seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", {key: _clean(value) for key, value in facts.items()})
    fault = result.fault
    if result.verdict == "not built":
        ElementTree.SubElement(case, "skipped", {"message": _clean(result.why)})
    elif fault is not None:
        tag = "error" if result.verdict == "interrupted" else "failure"
        told = ElementTree.SubElement(case, tag, {"message": _clean(fault.brief), "type": fault.kind})
        parts = (fault.details, fault.hint and f"hint: {fault.hint}", result.folder and f"evidence: {result.folder}")
        told.text = _clean("\n".join(part for part in parts if part))
    said = [f"{result.verdict}: {result.why}"]
    said += [f"{stage.stage}: {stage.action}, {stage.seconds:.1f} s, {stage.reason}" for stage in result.stages]
    ElementTree.SubElement(case, "system-out").text = _clean("\n".join(said))
    if result.console:
        ElementTree.SubElement(case, "system-err").text = _clean(result.console)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
