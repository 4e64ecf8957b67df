"""The form of a Linux host name.

Invariant: recipes, seeds and the first-boot unit in the guest (kickstarts/snippets/first-boot.sh) keep to this rule;
tests/guest/test_seed.py has one table of cases for all of them.
"""

from __future__ import annotations

import re

# HOST_NAME_MAX in Linux' limits.h; a label is limited by RFC 1035, 2.3.4.
LONGEST, LONGEST_LABEL = 64, 63
_LABEL = rf"[A-Za-z0-9]([A-Za-z0-9-]{{0,{LONGEST_LABEL - 2}}}[A-Za-z0-9])?"
PATTERN = rf"(?=.{{1,{LONGEST}}}\Z){_LABEL}(\.{_LABEL})*"
FORM = f"host name: letters, digits and '-', parts of at most {LONGEST_LABEL} joined by '.', at most {LONGEST} in all"


def is_host_name(text: str) -> bool:
    """Return whether Linux and the installer accept this host name."""
    return re.fullmatch(PATTERN, text) is not None
