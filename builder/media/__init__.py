"""Install media: download, and the vendor's signature over their checksums."""
