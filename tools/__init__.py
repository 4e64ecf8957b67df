"""Programs for developers of builder; nothing here is part of the product."""
