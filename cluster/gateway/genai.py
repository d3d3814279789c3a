"""What a generation says of itself to OpenTelemetry: a span, and three measurements once it has ended."""

from typing import Any

from opentelemetry.trace import Span

from actors.base import genai
from actors.base.telemetry import Telemetry
from protos.gen import inference_pb2

PROVIDER = "russet"
Attributes = dict[str, Any]


class Measurements:
    """The histograms of the conventions, in seconds, recorded once a request."""

    def __init__(self, telemetry: Telemetry) -> None:
        def histogram(name: str, description: str, bounds: tuple[float, ...]) -> Any:
            return telemetry.meter.create_histogram(
                name, unit="s", description=description, explicit_bucket_boundaries_advisory=bounds
            )

        self._duration = histogram(
            genai.REQUEST_DURATION, "Arrival of a request to the end of its answer", genai.REQUEST_SECONDS
        )
        self._first = histogram(genai.TIME_TO_FIRST_TOKEN, "Arrival to first token", genai.FIRST_TOKEN_SECONDS)
        self._each = histogram(
            genai.TIME_PER_OUTPUT_TOKEN, "Mean time of a token after the first", genai.OUTPUT_TOKEN_SECONDS
        )

    def record(
        self,
        operation: str,
        model: str,
        error: str,
        *,
        total_s: float,
        first_s: float | None,
        each_s: float | None,
    ) -> None:
        """One request. `model` is one that is served, or empty: what clients write must not become label values."""
        attributes: Attributes = {genai.OPERATION: operation, genai.PROVIDER: PROVIDER}
        if model:
            attributes |= {genai.REQUEST_MODEL: model, genai.RESPONSE_MODEL: model}
        self._duration.record(total_s, attributes | ({genai.ERROR_TYPE: error} if error else {}))
        if first_s is not None:
            self._first.record(first_s, attributes)
        if each_s is not None:
            self._each.record(each_s, attributes)


def asked(operation: str, model: str, session_id: str, decoding: inference_pb2.Decoding) -> Attributes:
    """Attributes that a span begins with. Content (prompts, answers) is never among them."""
    attributes: Attributes = {genai.OPERATION: operation, genai.PROVIDER: PROVIDER, genai.REQUEST_MODEL: model}
    if session_id:
        attributes[genai.CONVERSATION] = session_id
    if decoding.HasField("max_tokens"):
        attributes[genai.REQUEST_MAX_TOKENS] = decoding.max_tokens
    sampling = decoding.sampling
    for name, field in (
        (genai.REQUEST_TEMPERATURE, "temperature"),
        (genai.REQUEST_TOP_P, "top_p"),
        (genai.REQUEST_TOP_K, "top_k"),
    ):
        if sampling.HasField(field):
            attributes[name] = getattr(sampling, field)
    if sampling.HasField("seed"):
        # OpenTelemetry's integers have a sign; a seed has not.
        attributes[genai.REQUEST_SEED] = sampling.seed - (1 << 64) * (sampling.seed >> 63)
    return attributes


def answered(
    span: Span, response_id: str, model: str, finish: str, error: str, usage: inference_pb2.Usage, failovers: int
) -> None:
    """Attributes that a span ends with."""
    attributes: Attributes = {
        genai.RESPONSE_ID: response_id,
        genai.RESPONSE_MODEL: model,
        genai.RESPONSE_FINISH_REASONS: (finish,),
        genai.INPUT_TOKENS: usage.prompt_tokens,
        genai.OUTPUT_TOKENS: usage.completion_tokens,
        genai.CACHED_TOKENS: usage.cached_tokens,
        "russet.failovers": failovers,
    }
    span.set_attributes(attributes | ({genai.ERROR_TYPE: error} if error else {}))
