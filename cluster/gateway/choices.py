"""Several answers to one request: generations that run beside each other and are told of as one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import deepcopy
from typing import NamedTuple, TypeVar

from actors.base.errors import InvalidArgument
from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.begin import begin, keep_together
from cluster.gateway.caller import Caller
from cluster.gateway.checks import echoes
from cluster.gateway.limits import check_decoding
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.requests import Requests
from cluster.gateway.seeds import derived_seed
from cluster.gateway.tools.reader import Delta
from protos.gen import inference_pb2

Message = TypeVar("Message", bound=GenerateMessage)


class Piece(NamedTuple):
    """Something of one choice."""

    choice: int
    delta: Delta | None
    """What became certain; None: the choice ended."""
    told: int
    """Log-probabilities (AnswerStream.logprobs) up to this piece."""


class Choices:
    """The choices of one request. Their prompt is computed once: who comes second finds it in the prefix cache.

    Choice 0 is what the request alone would have given; the others draw from seeds of their own. Where more are drawn
    than are wanted (best_of), those whose tokens are likeliest on average are the answer, the likeliest first.
    """

    def __init__(self, requests: Requests, request: GenerateMessage, caller: Caller) -> None:
        """Raises InvalidArgument naming the parameter; nothing is asked of any actor yet."""
        decoding = request.decoding
        check_decoding(decoding, echo=echoes(request))
        self._wanted = max(decoding.n, 1)
        count = decoding.best_of or self._wanted
        if decoding.best_of and isinstance(request, inference_pb2.ChatRequest):
            raise InvalidArgument("best_of is for completions; use n, or leave it out", param="best_of")
        if count > 1 and request.session_id:
            raise InvalidArgument(
                f"{count} answers were asked for within a session, of which each is one turn; accepted is 1",
                param="n" if decoding.n > 1 else "best_of",
            )
        if count > 1 and isinstance(request, inference_pb2.ChatRequest) and request.HasField("reflect"):
            raise InvalidArgument(f"n is {count} with russet.reflect: there is one answer; accepted is 1", param="n")
        self._ranks = count > self._wanted
        self.tells_logprobs = decoding.HasField("logprobs")
        keep_together(request)
        grounding = requests.recall.begin(request, caller)
        self._all = [
            begin(requests, choice_of(request, index, self._ranks), caller, grounding) for index in range(count)
        ]
        self.generations: list[AnswerStream] = self._all[: self._wanted]
        """Those that are the answer; with best_of only once answer() has returned."""

    @property
    def first(self) -> AnswerStream:
        """Choice 0, whose id and route are the answer's."""
        return self._all[0]

    @property
    def usage(self) -> inference_pb2.Usage:
        """The prompt once, what was cached of it before any choice computed it, and the tokens of all drawn."""
        each = [generation.usage for generation in self._all]
        return inference_pb2.Usage(
            prompt_tokens=each[0].prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in each),
            cached_tokens=min(usage.cached_tokens for usage in each),
            drafted_tokens=sum(usage.drafted_tokens for usage in each),
            accepted_tokens=sum(usage.accepted_tokens for usage in each),
        )

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Of all choices as they come, interleaved. Closing it cancels them all, and one that fails ends the others.

        Raises as AnswerStream.deltas.
        """
        if len(self._all) == 1:
            async with aclosing(self.first.deltas()) as deltas:
                async for delta in deltas:
                    yield Piece(0, delta, len(self.first.logprobs))
            yield Piece(0, None, len(self.first.logprobs))
            return
        # A slow reader holds all of them back.
        queue: asyncio.Queue[Piece | Exception] = asyncio.Queue(len(self._all))
        tasks = [asyncio.create_task(_pump(index, each, queue)) for index, each in enumerate(self._all)]
        left = len(tasks)
        try:
            while left:
                piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= piece.delta is None
                yield piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self) -> list[AnswerStream]:
        """Wait for all; the choices of the answer in order."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        if self._ranks:
            self.generations = sorted(self._all, key=_mean_logprob, reverse=True)[: self._wanted]
        return self.generations


def choice_of(request: Message, index: int, ranked: bool) -> Message:
    """The request for one choice alone; ranked: with the log-probabilities by which it is compared."""
    alone = deepcopy(request)
    alone.decoding.ClearField("n")
    alone.decoding.ClearField("best_of")
    if ranked and not alone.decoding.HasField("logprobs"):
        alone.decoding.logprobs = 0
    if index and alone.decoding.sampling.HasField("seed"):
        alone.decoding.sampling.seed = derived_seed(alone.decoding.sampling.seed, index)
    return alone


async def _pump(index: int, generation: AnswerStream, queue: asyncio.Queue[Piece | Exception]) -> None:
    try:
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                await queue.put(Piece(index, delta, len(generation.logprobs)))
    except Exception as error:  # it is raised where the choices are read
        await queue.put(error)
    else:
        await queue.put(Piece(index, None, len(generation.logprobs)))


def _mean_logprob(generation: AnswerStream) -> float:
    told = generation.logprobs[generation.echoed_tokens :]
    return sum(entry.logprob for entry in told) / len(told) if told else float("-inf")
