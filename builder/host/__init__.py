"""The host: check it, prepare it, and restore it. Nothing here builds an image."""
