"""What comes from outside with bad intent: refused in one clear line, and nothing of the host is read or changed."""
