"""Check the values of kickstart variables: none can break out of the word that it is part of.

A kickstart is read by two parsers: the installer splits its lines as a shell would, with `#` as comment, and its
`%post` sections are shell scripts. A value is therefore checked against what a plain word may hold in both, and the
variables of well-known meaning against their own form.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pydantic import StrictBool, StrictInt, StrictStr

from builder.recipe import host_name

Variable = StrictStr | StrictInt | StrictBool | tuple[StrictStr, ...]


@dataclass(frozen=True)
class Rule:
    """Allowed values of one variable.

    Args:
        pattern: matched against the whole value, or against each entry of a list.
        what: ends the sentence "'x' is no …".
        many: the value is a list.
    """

    pattern: str
    what: str
    many: bool = False


# Variables of well-known meaning. Any other name holds plain words (_WORD).
RULES = {
    "hostname": Rule(host_name.PATTERN, host_name.FORM),
    "timezone": Rule(r"[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*){0,2}", "time zone such as Europe/Berlin or UTC"),
    "lang": Rule(r"(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9-]+)?(@[a-z]+)?", "locale such as en_US.UTF-8"),
    "keyboard": Rule(r"[a-z][a-z0-9_-]{0,31}", "keyboard layout such as us or de-nodeadkeys"),
    "packages": Rule(
        r"-?[A-Za-z0-9][A-Za-z0-9._+*-]*|@\^?[a-z0-9][a-z0-9-]*", "package, @group or -package", many=True
    ),
}
# A word that neither the installer nor a shell reads anything into. No '-' in front: it would be an option.
_WORD = Rule(r"[A-Za-z0-9_./:@+,=][A-Za-z0-9_./:@+,=-]*|", "plain word: use letters, digits and _ . / : @ + , = -")
_NAME = r"[a-z][a-z0-9_]{0,62}"
_SECRET = re.compile(r"passw|passphrase|rootpw|secret|private")
_BANNED = {
    '"': "a double quote",
    "'": "a single quote",
    "`": "a backquote",
    "$": "a dollar sign",
    "\\": "a backslash",
    "#": "a '#', which starts a comment",
}


def check_variable(name: object, value: object) -> str | None:
    """Say what is wrong with one variable of a kickstart, None when nothing is.

    Every entry of a list is checked like a single value. The message does not name the variable.
    """
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        return "is no variable name: use a-z, 0-9 and '_', a letter first"
    if _SECRET.search(name):
        return "a recipe holds no secrets: they would be readable in the image's record (see --root-password-file)"
    rule = RULES.get(name)
    if isinstance(value, list | tuple):
        if rule is not None and not rule.many:
            return "must be a single value, not a list"
        return next((wrong for entry in value if (wrong := _check_text(entry, rule or _WORD))), None)
    if rule is not None and rule.many:
        return "must be a list: [one, two]"
    if isinstance(value, bool | int) and rule is None:
        return None
    return _check_text(value, rule or _WORD)


def _check_text(value: object, rule: Rule) -> str | None:
    if not isinstance(value, str):
        return f"{value!r} must be text: put it in quotes"
    for char in value:
        if char in "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029":
            return f"{value!r} holds a line break"
        if unicodedata.category(char)[0] == "C":
            return f"{value!r} holds a control character"
        if char in _BANNED:
            return f"{value!r} holds {_BANNED[char]}"
    if value.startswith("%"):
        return f"{value!r} starts with '%', which starts a section"
    if not re.fullmatch(rule.pattern, value):
        return f"{value!r} is no {rule.what}"
    return None
