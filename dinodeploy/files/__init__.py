"""Files: atomic writes, regular files only, and JSON that is checked against a schema."""
