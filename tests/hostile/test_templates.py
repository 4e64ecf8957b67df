"""Kickstart templates of a recipe from elsewhere: they make text, and reach nothing on the host."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.kickstart import render, sandbox


def rendered(folder: Path, text: str, **files: str) -> str:
    (folder / "evil.ks.j2").write_text(text)
    for name, content in files.items():
        (folder / f"{name}.ks.j2").write_text(content)
    texts = render.collect("evil.ks.j2", [folder])
    return render.render(texts, "evil.ks.j2", {"names": ("a", "b"), "name": "x"})


CODE = "os.popen('touch PWNED').read()"
ESCAPES = [
    "{{ cycler.__init__.__globals__." + CODE + " }}",
    "{{ self.__init__.__globals__.__builtins__.open('/etc/shadow').read() }}",
    "{{ lipsum.__globals__." + CODE + " }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{0.__init__.__globals__}'.format(cycler) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('{0.__cla' ~ 'ss__}')|attr('format')('') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set x = [] %}{{ x.append(1) }}",
    "{{ names.__class__ }}",
    "{{ range.mro() }}",
    "{{ render.__globals__ }}",
    "{% for n in names %}{{ loop.__init__.__globals__ }}{% endfor %}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_no_way_to_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"^kickstarts/evil\.ks\.j2:2: "):
        rendered(tmp_path, f"text\n{text}\n")
    assert not (tmp_path / "PWNED").exists()


BOMBS = {
    "a long range": "{% for i in range(10**9) %}{{ i }}{% endfor %}",
    "ranges of ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a long text": "{{ 'a' * 10**10 }}",
    "a wide text": "{{ 'a'.ljust(10**10) }}",
    "a padded number": "{{ '%09999999999d' % 1 }}",
    "a large power": "{{ 10**(10**10) }}",
    "doubled": "{% set n = namespace(t='aa') %}{% for i in range(64) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "a list of lists": "{{ [names] * 10**10 }}",
    "a macro of itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "itself": "{% include 'evil.ks.j2' %}",
    "a division": "{{ 1 / 0 }}",
    "a wrong type": "{{ 1 + 'a' }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_grows_without_bounds_is_a_fault_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    with pytest.raises(RecipeError, match=r"kickstarts/evil\.ks\.j2") as caught:
        rendered(tmp_path, BOMBS[name])
    assert "Traceback" not in caught.value.details
    # What was used is the children's.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 700 << 10


CONSTANTS = {
    "a power": "{{ 9**9**9 }}",
    "a long text": "{{ 'a' * 10**10 }}",
    "a list": "{{ ['x'] * 10**8 }}",
    "a filter": "{{ 'x'|center(10**9)|length }}",
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_search_for_variables_computes_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Jinja folds constants when it is asked for the names in a template, which is before anything is rendered."""
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    before = resource.getrusage(resource.RUSAGE_SELF)
    (tmp_path / "evil.ks.j2").write_text(CONSTANTS[name] + "{{ asked }}")
    with contextlib.suppress(RecipeError):
        assert render.variables_of(render.collect("evil.ks.j2", [tmp_path])) == {"asked"}
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 1
    assert after.ru_maxrss - before.ru_maxrss < 100 << 10


def test_the_limits_are_large_enough(tmp_path: Path) -> None:
    lines = rendered(tmp_path, "{% for i in range(90000) %}{{ i }} {{ name }}\n{% endfor %}").splitlines()
    assert (len(lines), lines[-1]) == (90000, "89999 x")


def test_nested_too_deeply(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"kickstarts/evil\.ks\.j2"):
        rendered(tmp_path, "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}")


def test_a_fault_in_an_included_template_names_that_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^kickstarts/part\.ks\.j2:3: "):
        rendered(tmp_path, "text\n{% include 'part.ks.j2' %}\n", part="a\nb\n{{ name.__class__.__mro__ }}\n")


def test_an_include_that_is_put_together_is_not_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^kickstarts/evil\.ks\.j2:1: "):
        rendered(tmp_path, "{% include '/etc/' ~ 'passwd' %}")


SHELL = """\
%post
nics=(a b)
echo ${#nics[@]}
echo first
echo ${name#}
%end
"""


def test_a_length_in_shell_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^kickstarts/evil\.ks\.j2:3: ") as caught:
        rendered(tmp_path, SHELL)
    assert caught.value.details == "echo ${#nics[@]}"
    assert "{% raw %}" in caught.value.hint
    # Without an end of the comment, too.
    with pytest.raises(RecipeError, match=r"^kickstarts/evil\.ks\.j2:1: ") as caught:
        rendered(tmp_path, "echo ${#nics[@]}\n")
    assert "{% raw %}" in caught.value.hint


def test_a_length_in_a_raw_block_is_kept(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{% raw %}\n" + SHELL + "{% endraw %}{# a comment #}\n") == "\n" + SHELL + "\n"


def test_other_comments_that_do_not_end_name_the_way_out_too(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^kickstarts/evil\.ks\.j2:2: ") as caught:
        rendered(tmp_path, "text\nawk '{# count' {%\n")
    assert "{% raw %}" in caught.value.hint
