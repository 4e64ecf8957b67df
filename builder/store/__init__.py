"""The content store: objects by digest, runs, durations, secrets, and garbage collection."""
