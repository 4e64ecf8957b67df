"""Networks of the host: validate a request, change the running system, keep the change only when it is confirmed."""
