"""Builds of a night on other hosts, through Dask."""
