"""The one rule: a night builds what needs it, looks at the rest again, and says of each what became of it."""

# Holds addresses for messages, as `--notify` does.
ENVIRONMENT = "BUILDER_NOTIFY"
