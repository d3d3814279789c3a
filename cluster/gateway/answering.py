"""A job's events as what its client is told: text, tool calls, log-probabilities, and why it ended."""

from collections.abc import Iterator

from actors.base.errors import Internal
from cluster.gateway.catalog import ModelView
from cluster.gateway.checks import only_echoes
from cluster.gateway.echo import Echo
from cluster.gateway.logprobs import LogprobStream
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.stream import TextStream
from cluster.gateway.tools.plan import ToolPlan
from cluster.gateway.tools.reader import CallReader, Delta
from protos.gen import inference_pb2, scheduler_pb2


class Answering:
    """One answer as its events come; whatever replicas they are of, it goes on where it was."""

    def __init__(
        self,
        request: GenerateMessage,
        generate: scheduler_pb2.GenerateRequest,
        view: ModelView,
        tail: str,
        plan: ToolPlan | None,
    ) -> None:
        """`generate`: the request over the model's vocabulary.

        `tail`: text that the answer begins with and that is no part of it (cluster.gateway.healing).
        """
        vocabulary, self._request = view.vocabulary, request
        self._tells = request.decoding.HasField("logprobs")
        self._echo: Echo | None = None
        if isinstance(request, inference_pb2.CompleteRequest) and request.echo:
            prompt = generate.token_ids[: generate.prompt_tokens]
            self._echo = Echo(vocabulary, prompt, request.text, tells=self._tells)
        offset = len(self._echo.text) if self._echo is not None else 0
        self._text = TextStream(vocabulary, request.decoding.stop, len(tail), plan.shown if plan else frozenset())
        self._told = LogprobStream(vocabulary, offset, len(tail)) if self._tells else None
        self._reader: CallReader | None = plan.reader() if plan else None
        self._certain = 0
        self.tokens = 0
        """Tokens that belong to the answer."""
        self.logprobs: list[inference_pb2.TokenLogprob] = []
        """Where asked for: of the tokens whose text is certain; of all of them by the end."""
        self.echoed_tokens = 0
        """Entries of logprobs that are the echoed prompt's."""
        self.echoed = False
        """Whether the first delta was the prompt."""
        self.finish: inference_pb2.FinishReason = inference_pb2.FINISH_UNSPECIFIED

    @property
    def stop_text(self) -> str:
        """The stop string that ended it; empty where none did."""
        return self._text.stop_text

    @property
    def calls(self) -> list[inference_pb2.ToolCall]:
        """Tools that it calls, as far as they are certain."""
        return self._reader.calls if self._reader is not None else []

    @property
    def whole_calls(self) -> list[inference_pb2.ToolCall]:
        """Those that are complete."""
        return self._reader.calls[: self._reader.whole] if self._reader is not None else []

    def push(self, event: scheduler_pb2.GenerateEvent) -> Iterator[Delta]:
        """What became certain, to be read to its end. Once `finish` is set nothing more belongs to the answer."""
        if self._echo is not None:
            self._echo.push(event.prompt_logprobs)
            if not self._echo.complete:
                if event.token_ids or event.finish_reason:
                    raise Internal("the replica told too little of the prompt")
                return
            self.logprobs += self._echo.entries
            self.echoed_tokens, self.echoed = len(self._echo.entries), True
            yield self._echo.text
            self._echo = None
            if only_echoes(self._request):
                self.finish = inference_pb2.FINISH_LENGTH
                return
        stream = self._text
        text = stream.push(event.token_ids)
        if self._told is not None:
            self._told.push(event.token_ids, stream.starts[self.tokens :], event.logprobs)
        self.tokens = stream.tokens
        ended = bool(event.finish_reason) and not stream.stopped
        if ended:
            text += stream.finish()
            self.finish = event.finish_reason
        if stream.stopped:
            self.finish = inference_pb2.FINISH_STOP
        if self._told is not None:
            self._certain += len(text)
            self.logprobs += self._told.finish() if ended else self._told.release(self._certain)
        yield from self._read(text)

    def _read(self, text: str) -> list[Delta]:
        if self._reader is None:
            return [text] if text else []
        deltas = self._reader.push(text)
        if self.finish:
            deltas += self._reader.finish()
            called = self._reader.calls and self._reader.whole == len(self._reader.calls)
            if called and self.finish == inference_pb2.FINISH_STOP:
                self.finish = inference_pb2.FINISH_TOOL_CALLS
        return deltas
