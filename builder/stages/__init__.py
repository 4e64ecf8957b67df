"""The stages of a pipeline, and what several of them share."""
