"""The host: looked at, prepared, and put back. Nothing here builds an image."""
