"""Log-probabilities on their way to a client: a token's leave with the text that it begins."""

from collections.abc import Sequence
from typing import Any

from actors.base.errors import Internal
from actors.base.vocabulary import Vocabulary
from protos.gen import inference_pb2, worker_pb2

DIGITS = 6


class LogprobStream:
    """What is told of one answer's tokens, held until their text is certain.

        text   |----- certain -----|-- held: may become a character or a stop string --|
        tokens |  told  |  told |       waiting         |  waiting ...

    A token is told once the character that it begins is certain, so what a stop string cut away is never told of.
    """

    def __init__(self, vocabulary: Vocabulary, offset: int = 0, skip: int = 0) -> None:
        """`offset`: characters of the answer before these tokens, an echoed prompt's. `skip`: as in TextStream."""
        self._vocabulary = vocabulary
        self._skip = skip
        self._offset = offset
        self._waiting: list[inference_pb2.TokenLogprob] = []

    def push(self, ids: Sequence[int], starts: Sequence[int], told: worker_pb2.Logprobs) -> None:
        """New tokens [T], the characters before each of them, and what the worker told of them.

        Of tokens past a stop string `starts` says nothing; they are no part of the answer.
        """
        if len(told.chosen) != len(ids):
            raise Internal(f"the replica told {len(told.chosen)} log-probabilities of {len(ids)} tokens")
        offsets = [self._offset + max(0, start - self._skip) for start in starts]
        self._waiting += entries_of(self._vocabulary, ids, offsets, told)

    def release(self, certain: int) -> list[inference_pb2.TokenLogprob]:
        """Those of the first `certain` characters."""
        count = 0
        while count < len(self._waiting) and self._waiting[count].text_offset < self._offset + certain:
            count += 1
        released, self._waiting = self._waiting[:count], self._waiting[count:]
        return released

    def finish(self) -> list[inference_pb2.TokenLogprob]:
        """The rest: tokens at the answer's end that have no text."""
        released, self._waiting = self._waiting, []
        return released


def entries_of(
    vocabulary: Vocabulary, ids: Sequence[int], offsets: Sequence[int], told: worker_pb2.Logprobs
) -> list[inference_pb2.TokenLogprob]:
    """Entries of the first of `ids` [T], as many as there are text offsets, by what the worker told of them."""

    def entry(token: int, value: float, offset: int = 0) -> inference_pb2.TokenLogprob:
        data = vocabulary.token_bytes(token)
        return inference_pb2.TokenLogprob(id=token, token=data, logprob=value, text_offset=offset)

    entries = list(map(entry, ids, told.chosen, offsets))
    top_ids, top_values = list(told.top_ids), list(told.top_values)
    for index, each in enumerate(entries):
        these = slice(index * told.tops, (index + 1) * told.tops)
        each.top.extend(map(entry, top_ids[these], top_values[these]))
    return entries


def chat_logprobs(entries: Sequence[inference_pb2.TokenLogprob]) -> dict[str, Any]:
    """A choice's `logprobs` as /v1/chat/completions has it."""
    return {
        "content": [_chat_entry(entry) | {"top_logprobs": list(map(_chat_entry, entry.top))} for entry in entries],
        "refusal": None,
    }


def completion_logprobs(entries: Sequence[inference_pb2.TokenLogprob]) -> dict[str, Any]:
    """A choice's `logprobs` as /v1/completions has it: the token drawn is always among its alternatives."""
    return {
        "tokens": [token_text(entry.token) for entry in entries],
        "token_logprobs": [round(entry.logprob, DIGITS) if entry.HasField("logprob") else None for entry in entries],
        "top_logprobs": [
            {token_text(each.token): round(each.logprob, DIGITS) for each in (entry, *reversed(entry.top))}
            if entry.HasField("logprob")
            else None
            for entry in entries
        ],
        "text_offset": [entry.text_offset for entry in entries],
    }


def token_text(data: bytes) -> str:
    """A token's bytes as text; those that are no UTF-8 by themselves are written out, `bytes:\\xe2\\x82`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _chat_entry(entry: inference_pb2.TokenLogprob) -> dict[str, Any]:
    logprob = round(entry.logprob, DIGITS)
    return {"token": token_text(entry.token), "logprob": logprob, "bytes": list(entry.token)}
