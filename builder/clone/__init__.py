"""The one rule: a clone is whole when its record stands; until then, and after that is gone, nothing of it counts."""
