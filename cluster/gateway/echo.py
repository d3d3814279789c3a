"""A prompt as the beginning of its own answer (completions' `echo`), with its log-probabilities where asked for."""

import codecs
from collections.abc import Sequence

from actors.base.vocabulary import Vocabulary
from cluster.gateway.logprobs import entries_of
from protos.gen import inference_pb2, worker_pb2


class Echo:
    """One request's prompt: its text, and what is told of its tokens as they are computed.

    The first token is given, not predicted: it has no log-probability.
    """

    def __init__(self, vocabulary: Vocabulary, ids: Sequence[int], text: str, *, tells: bool) -> None:
        """`text`: the prompt as it was sent; empty where ids were. `tells`: whether log-probabilities are asked for."""
        spelled, starts = spell(vocabulary, ids)
        self.text = text or spelled
        # What the tokenizer puts before a text (a beginning of text, SentencePiece's space) was not sent.
        added = len(spelled) - len(self.text) if spelled.endswith(self.text) else 0
        self._offsets = [max(0, start - added) for start in starts]
        self._vocabulary = vocabulary
        self._ids = ids
        self._tells = tells
        self.entries: list[inference_pb2.TokenLogprob] = []
        if tells:
            self.entries.append(inference_pb2.TokenLogprob(id=ids[0], token=vocabulary.token_bytes(ids[0])))

    @property
    def complete(self) -> bool:
        """Whether everything is told that is asked for."""
        return not self._tells or len(self.entries) == len(self._ids)

    def push(self, told: worker_pb2.Logprobs) -> None:
        """What a replica told of the tokens that come next."""
        at = slice(len(self.entries), len(self.entries) + len(told.chosen))
        self.entries += entries_of(self._vocabulary, self._ids[at], self._offsets[at], told)


def spell(vocabulary: Vocabulary, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of ids, special tokens written out, and for each of them the characters that are whole before it."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    text, starts = "", []
    for token in ids:
        starts.append(len(text))
        text += decode(vocabulary.token_bytes(token))
    return text + decode(b"", True), starts
