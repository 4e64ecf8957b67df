# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""What differs between the releases that are installed: their words, their files, and how they decide."""
