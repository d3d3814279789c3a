"""Names that clients give for a model without naming one."""

AUTO = ("", "auto")
"""The router's choice."""
NAMED = "router:"
"""Followed by the name of a named router, whose label is the model."""


def leaves_choice(asked: str) -> bool:
    """Whether a name leaves the model to the router."""
    return asked in AUTO or asked.startswith(NAMED)
