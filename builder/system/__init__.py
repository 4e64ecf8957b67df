"""Programs, files, locks, signals, devices and network links of the host's operating system."""
