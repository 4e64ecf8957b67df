"""Statements about an image: DSSE envelopes, the SBOM, and signing keys."""
