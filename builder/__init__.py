"""Turns an install ISO and a kickstart into a golden VM image that is proved to work."""

__version__ = "0.1.0"
