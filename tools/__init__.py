"""Programs for those who change the code; nothing here is part of the product."""
