# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Entry point for `python3 -m installer`."""

from __future__ import annotations

from .main import main

main()
