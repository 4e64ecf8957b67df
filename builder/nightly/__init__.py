"""Nightly runs: build every image whose inputs changed, verify the others again, write a report."""

# Holds addresses for messages, as `--notify` does.
ENVIRONMENT = "BUILDER_NOTIFY"
