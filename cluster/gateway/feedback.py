"""Feedback on an answer goes to the learner, on a decision of a named router to that router."""

from actors.base.errors import InvalidArgument
from actors.base.feedback import check_feedback, outcome_of
from cluster.gateway.caller import Caller
from cluster.gateway.records import Records
from protos.gen import inference_pb2, router_pb2
from protos.gen.learner_pb2_grpc import LearnerStub
from protos.gen.router_pb2_grpc import SemanticStub

DECISION = "route-"
"""How the id of POST /v1/router/classify begins."""
TIMEOUT_S = 10.0


class Feedback:
    """Takes it, of any API."""

    def __init__(self, records: Records, learner: LearnerStub, semantic: SemanticStub) -> None:
        self._records = records
        self._learner = learner
        self._semantic = semantic

    async def take(self, told: inference_pb2.FeedbackRequest, caller: Caller) -> inference_pb2.FeedbackReply:
        """Pass it on, after the answer that it is of.

        Raises InvalidArgument naming what is out of bounds, or that it tells nothing.
        """
        check_feedback(told)
        told.tenant = caller.tenant
        if not told.response_id:
            raise InvalidArgument("response_id is empty; accepted is an answer's id", param="response_id")
        if not (told.HasField("rating") or told.outcome or told.correction or told.label or told.comment):
            raise InvalidArgument(
                "the feedback tells nothing; accepted are rating, outcome, correction, label and comment",
                param="rating",
            )
        if told.response_id.startswith(DECISION):
            return await self._of_decision(told, caller)
        return await self._learner.Feedback(await self._records.chosen(told))

    async def _of_decision(self, told: inference_pb2.FeedbackRequest, caller: Caller) -> inference_pb2.FeedbackReply:
        outcome = outcome_of(told)
        if outcome is None and not told.label:
            raise InvalidArgument(
                f"{told.response_id} is a decision of a named router; accepted of it are rating, outcome and label",
                param="label",
            )
        request = router_pb2.OutcomeRequest(
            tenant=caller.tenant, id=told.response_id, outcome=outcome, label=told.label
        )
        reply = await self._semantic.Outcome(request, timeout=TIMEOUT_S)
        return inference_pb2.FeedbackReply(found=reply.found, change=reply.change)
