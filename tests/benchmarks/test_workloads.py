"""What the workloads say of a server that keeps every prompt, and of one that keeps none."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from tests.benchmarks import workloads
from tests.benchmarks.chats import BETWEEN, SYSTEM_HEAD, Answer, Message, Passage, Server, Texts
from tests.benchmarks.decoding import MODEL
from tests.benchmarks.harness import Samples
from tests.benchmarks.workloads import Size, Workloads, leave_memory, zipf

RECORDS = [{"question": f"How much is {n} and {n}? Tell me.", "answer": f"{2 * n}, surely."} for n in range(40)]
SIZE = Size(conversations=3, turns=3, documents=4, questions=12, inputs=8, sessions=1)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens they begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Remembering(Server):
    """Answers at once, and finds the longest prompt that it has read and that begins alike; or it forgets them all."""

    def __init__(self, vocabulary: Vocabulary, *, forgets: bool) -> None:
        super().__init__("http://nowhere", "auto")
        self._vocabulary = vocabulary
        self._forgets = forgets
        self._prompts: list[list[int]] = []
        self.conversations: list[list[Message]] = []

    async def ask(self, messages: Sequence[Message], max_tokens: int, session: str | None = None) -> Answer:
        self.conversations.append(list(messages))
        words = "".join(f"{message['content']}{BETWEEN}" for message in messages)
        ids = self._vocabulary.encode(f"{SYSTEM_HEAD}{words}", add_bos=False)
        known = max((shared(ids, other) for other in self._prompts), default=0)
        if not self._forgets:
            self._prompts.append(ids)
        await asyncio.sleep(0)
        return Answer("Surely.", 0.001 * (1 + len(ids) - known), 1.0, len(ids), known, max_tokens)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(load_model(MODEL).vocabulary)


async def taken(server: Server, vocabulary: Vocabulary) -> Samples:
    work = Workloads(server, Texts(vocabulary, RECORDS), SIZE)
    return {**await work.chat(), **await work.retrieval(), **await work.batch(), **await work.mixed()}


ASKED = (workloads.CHAT_SYSTEM, workloads.RETRIEVAL_FOUND, workloads.BATCH_COMPUTED, workloads.MIXED_FOUND)


async def test_a_server_that_keeps_every_prompt_meets_what_is_asked(vocabulary: Vocabulary) -> None:
    samples = await taken(Remembering(vocabulary, forgets=False), vocabulary)
    assert [figure.met(samples[figure][0]) for figure in ASKED] == [True] * len(ASKED)
    assert samples[workloads.CHAT_SYSTEM] == [100]
    assert samples[workloads.BATCH_COMPUTED] == [1]
    assert 5 * max(samples[workloads.RETRIEVAL_WARM]) < min(samples[workloads.RETRIEVAL_COLD])
    assert [len(samples[workloads.TURNS[turn]]) for turn in (1, 2, 3)] == [1, 3, 3]


async def test_a_server_that_keeps_none_meets_nothing(vocabulary: Vocabulary) -> None:
    samples = await taken(Remembering(vocabulary, forgets=True), vocabulary)
    assert [samples[figure][0] for figure in ASKED] == [0, 0, SIZE.inputs, 0]


async def test_what_is_cold_was_never_read_in_the_rounds_before(vocabulary: Vocabulary) -> None:
    server, texts = Remembering(vocabulary, forgets=False), Texts(vocabulary, RECORDS)
    for _ in range(3):
        work = Workloads(server, texts, SIZE)
        chat, retrieval, batch = await work.chat(), await work.retrieval(), await work.batch()
        assert chat[workloads.TURNS[1]][0] > workloads.SYSTEM - 10
        assert min(retrieval[workloads.RETRIEVAL_COLD]) > workloads.DOCUMENT[0] - 10
        assert batch[workloads.BATCH_COMPUTED] == [1]


async def test_each_turn_sends_all_that_was_said(vocabulary: Vocabulary) -> None:
    server = Remembering(vocabulary, forgets=False)
    await Workloads(server, Texts(vocabulary, RECORDS), SIZE).chat()
    longest = max(server.conversations, key=len)
    assert [message["role"] for message in longest] == ["system", *("user", "assistant") * 2, "user"]
    assert Counter(map(len, server.conversations)) == {2: 3, 4: 3, 6: 3}
    assert len({each[0]["content"] for each in server.conversations}) == 1


def test_the_second_document_is_drawn_half_as_often_as_the_first() -> None:
    documents = [Passage(str(number), 1) for number in range(4)]
    drawn = Counter(document.text for document in zipf(random.Random(1), documents, 25_000))
    assert [drawn[str(number)] / 12_000 for number in range(4)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], abs=0.02)


def test_files_that_leave_memory_are_on_disk_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "00").mkdir()
    (tmp_path / "00" / "unit").write_bytes(bytes(range(256)) * 64)
    leave_memory(tmp_path)
    assert (tmp_path / "00" / "unit").read_bytes() == bytes(range(256)) * 64
