"""The report of a nightly run as JUnit XML: each build is a test case, as CI systems count and sort them.

The form is that of Ant's JUnit task, as GitLab and others read it (docs.gitlab.com, "Unit test reports").
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from builder.nightly.record import NightlyRun, Result

# XML 1.0, section 2.2: a document may hold no other control characters, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(nightly: NightlyRun) -> bytes:
    """Return the run as a JUnit document."""
    results = nightly.results
    counts = {
        "tests": len(results),
        "failures": sum(result.verdict in ("failed", "corrupt") for result in results),
        "errors": sum(result.verdict == "interrupted" for result in results),
        "skipped": sum(result.verdict == "skipped" for result in results),
    }
    numbers = {key: str(value) for key, value in counts.items()} | {"time": f"{nightly.seconds:.3f}"}
    root = ElementTree.Element("testsuites", {"name": "builder nightly", **numbers})
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {"name": "builder nightly", "timestamp": nightly.started[:19], "hostname": nightly.host, **numbers},
    )
    if nightly.rehearsal:
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
    if result.verdict == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": _clean(result.why)})
    elif fault is not None:
        tag = "error" if result.verdict == "interrupted" else "failure"
        element = ElementTree.SubElement(case, tag, {"message": _clean(fault.brief), "type": fault.kind})
        parts = (fault.details, fault.hint and f"hint: {fault.hint}", result.folder and f"evidence: {result.folder}")
        element.text = _clean("\n".join(part for part in parts if part))
    lines = [f"{result.verdict}: {result.why}"]
    lines += [f"{stage.stage}: {stage.action}, {stage.seconds:.1f} s, {stage.reason}" for stage in result.stages]
    ElementTree.SubElement(case, "system-out").text = _clean("\n".join(lines))
    if result.console:
        ElementTree.SubElement(case, "system-err").text = _clean(result.console)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
