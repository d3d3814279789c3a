"""What feedback may say, and what it is worth. Any API's, the learner's and the router's."""

from actors.base.errors import InvalidArgument
from protos.gen import inference_pb2, learner_pb2

Feedback = inference_pb2.FeedbackRequest | learner_pb2.Trajectory
"""Either tells rating, outcome, correction and label."""
OUTCOMES = {"success": 1.0, "recovered": 0.75, "partial": 0.5, "failure": 0.0}
"""Verdicts, and what each is worth (MECHANISMS.md, ReasoningBank)."""
MOST = {"comment": 10_000, "correction": 100_000, "label": 256}
"""Characters."""


def outcome_of(told: Feedback) -> float | None:
    """As one number, 0 (bad) to 1 (good): the outcome told, else the rating; None where neither is."""
    if told.outcome:
        return OUTCOMES[told.outcome]
    return (told.rating + 1) / 2 if told.HasField("rating") else None


def check_feedback(told: Feedback) -> None:
    """Raises InvalidArgument naming what is out of bounds."""
    if told.HasField("rating") and not -1 <= told.rating <= 1:
        raise InvalidArgument(f"rating is {told.rating:g}; accepted is -1 (bad) to 1 (good)", param="rating")
    if told.outcome and told.outcome not in OUTCOMES:
        raise InvalidArgument(f"outcome is {told.outcome[:40]!r}; accepted is {', '.join(OUTCOMES)}", param="outcome")
    for name, most in MOST.items():
        if len(getattr(told, name, "")) > most:
            raise InvalidArgument(
                f"{name} has {len(getattr(told, name))} characters; accepted are up to {most}", param=name
            )
