"""Pipelines: their stages, the plan of a run, and its execution."""
