"""Kickstart files: rendering, parsing, and comparing them with the medium and the machine."""
