"""The way into a running guest: SSH, serial console, network address, seed and Ansible."""
