# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""An installer that honours a kickstart as the Anaconda of its release documents it, or stops as that does.

This program runs inside the machine that is being installed. It is started as `python3 -m installer`, imports
pykickstart (hence its licence) and nothing of builder; builder imports nothing of it.
"""
