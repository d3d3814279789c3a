"""How far an example is believed: by how the requests went that it decided (MECHANISMS.md, semantic router)."""

UNTRIED = 0.5
"""Success of an example that has decided nothing."""
RATE = 0.01
SURE_USES = 5
"""With fewer uses success says less than it seems to, and counts in part."""


def credited(success: float, outcome: float) -> float:
    """The success after one more outcome, both 0..1."""
    return min(max((1 - RATE) * success + RATE * outcome, 0.0), 1.0)


def weight(success: float, uses: int) -> float:
    """What an example's vote is multiplied by: 1 where nothing is known, 0 or 2 where all went wrong or well."""
    return 1.0 + (success / UNTRIED - 1.0) * min(uses / SURE_USES, 1.0)
