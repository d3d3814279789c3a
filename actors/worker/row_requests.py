"""Whose a row is: a request's id for the log lines about its row, which the engine knows by number alone."""

import logging

from actors.base.telemetry import REQUEST
from protos.gen import worker_pb2

log = logging.getLogger(__name__)


class RowRequests:
    """The requests of one epoch's rows."""

    def __init__(self) -> None:
        self._of: dict[int, str] = {}

    def planned(self, plan: worker_pb2.Plan) -> None:
        """Remember the rows that a plan starts; forget those that ended before it."""
        if not plan.start:
            return
        here = set(plan.row)
        self._of = {row: request for row, request in self._of.items() if row in here}
        self._of.update((start.row, start.request_id) for start in plan.start)

    def reported(self, result: worker_pb2.StepResult) -> None:
        """Log, in the name of its request, each row that ended by an error."""
        if not result.error:
            return
        failed = (row for row, end in zip(result.row, result.end, strict=True) if end == worker_pb2.ROW_ERROR)
        for row, reason in zip(failed, result.error, strict=False):
            before = REQUEST.set(self._of.get(row, ""))
            log.warning("row %d failed: %s", row, reason)
            REQUEST.reset(before)
