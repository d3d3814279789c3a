"""Files, vector stores made of them, and search in those."""
