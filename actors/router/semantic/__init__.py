"""Named routers: trained on examples of each label, asked which label a text belongs to."""
