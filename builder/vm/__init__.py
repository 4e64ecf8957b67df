"""Virtual machines: libvirt connections, domains, disks, consoles, networks, and daemons started for them."""
