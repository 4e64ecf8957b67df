"""docs/architecture.md shows the folders as the import contract has them, and answers where things are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# Written before the page was: what a reader who has seen nothing else must find on it at once.
QUESTIONS = {
    "where is the code that decides which stages a recipe gets?": "pipeline/pipelines.py",
    "… that finds out which stages must be run again, and why?": "pipeline/plan.py",
    "… that knows which words of Anaconda mean a missing package?": "diagnosis/patterns.py",
    "… that removes what a killed run left behind?": "store/gc.py",
    "… that searches the disk for the root password?": "stages/secret_scan.py",
    "… that writes libvirt's XML of a machine?": "vm/domain_xml.py",
    "… that parses the lines a guest writes on ttyS1?": "guest/report.py",
    "… that moves `latest` to a new version?": "images/catalogue.py",
    "… that compares a kickstart with the disk it will be installed on?": "kickstart/preflight.py",
    "… that puts the network back when an administrator is locked out?": "host/network/guardian.py",
}


def picture() -> list[str]:
    """Lines of the first code block."""
    return PAGE.partition("```\n")[2].partition("```")[0].splitlines()


def test_picture_has_the_layers_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    levels: list[set[str]] = []
    for line in picture():
        entry = re.match(r" (═|│) ([a-z.,_ ]+?) (═|  )", line)
        if entry:
            names = {name.removesuffix(".py") for name in entry[2].replace(",", " ").split()}
            levels = [*levels, names] if entry[1] == "═" else [*levels[:-1], levels[-1] | names]
    assert levels == [set(layer.split(" | ")) for layer in contract["layers"]]


@pytest.mark.parametrize(("question", "file"), QUESTIONS.items())
def test_page_names_the_file(question: str, file: str) -> None:
    assert (ROOT / "builder" / file).is_file()
    folder, _, name = file.rpartition("/")
    top, _, below = folder.partition("/")
    line = next((line for line in picture() if re.match(rf" (═|│) {top} ", line)), "")
    shown = re.search(rf"\b{name.removesuffix('.py')}\b", line) is not None and below in line
    assert shown or f"`{file}" in PAGE, question


@pytest.mark.parametrize(
    "page", ["architecture.md", "decisions.md", "add-a-stage.md", "../CONTRIBUTING.md", "../SECURITY.md"]
)
def test_pages_name_only_files_that_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = set(re.findall(r"`((?:builder/)?[a-z_]+(?:/[a-z_]+)*\.py|(?:tests|docs|tools)/[\w./-]+)\b", text))
    missing = {name for name in named if not any((ROOT / top / name).exists() for top in ("", "builder"))}
    assert missing == set()
