"""ISO images: reading, laying out, writing, remastering, boot menus, boot records and checksums."""
