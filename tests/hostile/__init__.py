"""Hostile and damaged input, one file a kind of it."""
