"""From the loop to one Generate handler: tokens that are there are taken together."""

import asyncio

from protos.gen import inference_pb2


class TokenStream:
    """A mailbox with one reader. Writers never wait; what arrives while the reader is busy is taken as one batch.

    It holds at most max_tokens ids, so it is bounded by the request itself.
    """

    __slots__ = ("_arrived", "_error", "_finish", "_token_ids")

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._finish = inference_pb2.FINISH_UNSPECIFIED
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, token_ids: list[int]) -> None:
        """Hand over new tokens, in order."""
        self._token_ids += token_ids
        self._arrived.set()

    def finish(self, reason: inference_pb2.FinishReason) -> None:
        """No more tokens will come."""
        self._finish = reason
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """The reader gets the tokens handed over so far, then this error."""
        self._error = error
        self._arrived.set()

    async def take(self) -> tuple[list[int], inference_pb2.FinishReason]:
        """Wait for news: all tokens since the last call, and the finish reason if these are the last.

        Raises the error given to fail() once the tokens before it are taken.
        """
        await self._arrived.wait()
        self._arrived.clear()
        token_ids, self._token_ids = self._token_ids, []
        if self._error is not None:
            if not token_ids:
                raise self._error
            self._arrived.set()
        return token_ids, self._finish
