"""Build golden VM images from install ISOs and kickstarts, and prove that they work."""

__version__ = "0.1.0"
