"""Clones of an image: requested, created, changed, logged in to, and deleted.

Invariant: a clone counts from the moment its record is written until its record is removed.
"""
