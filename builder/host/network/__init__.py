"""Networks of the host: planned purely, made in the running system first, kept only when confirmed."""
