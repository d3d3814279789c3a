"""A span for each row whose request is traced: from the plan that starts it to the result in which it ends.

It lives beside the engine, on the event loop, and costs nothing while nothing exports spans.
"""

from opentelemetry.trace import Span, SpanKind

from actors.base import genai
from actors.base.telemetry import Telemetry
from protos.gen import worker_pb2


class RowSpans:
    """The spans of one epoch's rows."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._open: dict[int, Span] = {}
        self._tokens: dict[int, int] = {}

    def planned(self, plan: worker_pb2.Plan) -> None:
        """Begin the spans of the rows that a plan starts; end those of rows it drops."""
        if self._open:
            for row in self._open.keys() - set(plan.row):
                self._end(row, "dropped")
        if not self._telemetry.tracing:
            return
        for start in plan.start:
            if start.traceparent:
                self._tokens[start.row] = 0
                self._open[start.row] = self._telemetry.begin(
                    "worker.row",
                    {
                        "russet.row": start.row,
                        "russet.cached_tokens": start.cached_tokens,
                        genai.INPUT_TOKENS: len(start.token_ids),
                    },
                    SpanKind.SERVER,
                    traceparent=start.traceparent,
                )

    def reported(self, result: worker_pb2.StepResult) -> None:
        """Mark first tokens, and end the spans of rows that ended."""
        if not self._open:
            return
        for row, count, end in zip(result.row, result.token_count, result.end, strict=True):
            span = self._open.get(row)
            if span is None:
                continue
            if count and not self._tokens[row]:
                span.add_event("first token")
            self._tokens[row] += count
            if end:
                self._end(row, worker_pb2.RowEnd.Name(end).removeprefix("ROW_").lower())

    def close(self) -> None:
        """The epoch is over, and with it every row."""
        for row in list(self._open):
            self._end(row, "lost")

    def _end(self, row: int, how: str) -> None:
        span = self._open.pop(row)
        span.set_attributes({"russet.row_end": how, genai.OUTPUT_TOKENS: self._tokens.pop(row)})
        span.end()
