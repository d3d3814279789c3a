"""From the loop to one Generate handler: tokens that are there are taken together."""

import asyncio
from typing import NamedTuple

from protos.gen import inference_pb2, worker_pb2


class Taken(NamedTuple):
    """What arrived at a stream."""

    token_ids: list[int]
    # Set with the last tokens.
    finish: inference_pb2.FinishReason
    # Of these tokens; None where they are not asked for, or there are none.
    logprobs: worker_pb2.Logprobs | None
    # Of prompt tokens, those that follow the ones told before.
    prompt_logprobs: worker_pb2.Logprobs | None = None
    # Nothing will come for a while. Then there is nothing else.
    stalled: bool = False


class TokenStream:
    """A mailbox with one reader. Writers never wait; what arrives while the reader is busy is taken as one batch.

    It holds at most max_tokens ids, so it is bounded by the request itself.
    """

    __slots__ = ("_arrived", "_error", "_finish", "_logprobs", "_prompt_logprobs", "_stalled", "_token_ids")

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._logprobs: worker_pb2.Logprobs | None = None
        self._prompt_logprobs: worker_pb2.Logprobs | None = None
        self._finish = inference_pb2.FINISH_UNSPECIFIED
        self._error: Exception | None = None
        self._stalled = False
        self._arrived = asyncio.Event()

    def put(
        self,
        token_ids: list[int],
        logprobs: worker_pb2.Logprobs | None = None,
        prompt_logprobs: worker_pb2.Logprobs | None = None,
    ) -> None:
        """Hand over new tokens, in order, with what is told of them and of the prompt; the messages are ours then."""
        self._stalled = False
        self._token_ids += token_ids
        self._logprobs = _joined(self._logprobs, logprobs)
        self._prompt_logprobs = _joined(self._prompt_logprobs, prompt_logprobs)
        self._arrived.set()

    def stall(self) -> None:
        """Nothing will come for a while: the reader is told, unless something does before it looks."""
        self._stalled = True
        self._arrived.set()

    def finish(self, reason: inference_pb2.FinishReason) -> None:
        """No more tokens will come."""
        self._finish = reason
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """The reader gets the tokens handed over so far, then this error."""
        self._error = error
        self._arrived.set()

    async def take(self) -> Taken:
        """Wait for news: all tokens since the last call, and the finish reason if these are the last.

        Raises the error given to fail() once the tokens before it are taken.
        """
        await self._arrived.wait()
        self._arrived.clear()
        stalled, self._stalled = self._stalled, False
        token_ids, self._token_ids = self._token_ids, []
        logprobs, self._logprobs = self._logprobs, None
        prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        if self._error is not None:
            if not token_ids:
                raise self._error
            self._arrived.set()
        elif stalled and not self._finish:
            if not (token_ids or prompt_logprobs):
                return Taken([], self._finish, None, stalled=True)
            self.stall()
        return Taken(token_ids, self._finish, logprobs, prompt_logprobs)


def _joined(first: worker_pb2.Logprobs | None, then: worker_pb2.Logprobs | None) -> worker_pb2.Logprobs | None:
    if first is None or then is None:
        return first or then
    first.chosen.extend(then.chosen)
    first.top_ids.extend(then.top_ids)
    first.top_values.extend(then.top_values)
    return first
