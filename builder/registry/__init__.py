"""OCI registries: client, login, blobs, the artifact of an image version, push and pull."""
