"""A scheduler that answers as it is told, and a bell that rings when something happened."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from actors.base.errors import Internal, InvalidArgument, Unavailable
from actors.base.vocabulary import digest_of
from protos.gen import (
    inference_pb2,
    scheduler_pb2,
    scheduler_pb2_grpc,
    worker_pb2,
)
from tests.cluster.gateway.tiny_model import CONTEXT, byte_vocabulary, told_of


class Bell:
    """Rings when a fake was called, so that tests wait for what happens and not for time."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Return when `condition` holds; looks again at every ring."""
        async with asyncio.timeout(10):
            while not condition():
                self._rung.clear()
                await self._rung.wait()


class FakeScheduler(scheduler_pb2_grpc.SchedulerServicer):
    """Answers with the bytes of `answer`, one token an event, and misbehaves as told."""

    def __init__(self, replica_id: str, model: str, answer: str = "Hello, world") -> None:
        self.replica_id = replica_id
        self.answer_ids = list(answer.encode())
        self.per_event = 1
        self.model = worker_pb2.ModelInfo(id=model, revision="r1" * 8, context_length=CONTEXT)
        self.vocabulary = byte_vocabulary()
        self.requests: list[scheduler_pb2.GenerateRequest] = []
        self.refuse: Exception | None = None
        self.break_after: int | None = None
        """Raise `breakage` after so many tokens of a stream, once."""
        self.breakage: Exception = Unavailable("the worker died")
        self.hold_after: int | None = None
        """Wait for ever after so many tokens of a stream."""
        self.stall_after: int | None = None
        """Say after so many tokens of a stream, once, that the worker is lost, and wait for `recovered`."""
        self.recovered = asyncio.Event()
        self.holding = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.cancellations = 0
        self.script: list[str] = []
        """Answers to the next requests, one each, before `answer` is given."""
        self.answers: dict[int, str] = {}
        """By seed, where it is not the answer."""
        self.values: dict[int, float] = {}
        """By seed, the log-probability of every token, where it is not -1."""
        self.per_score = 100
        """Prompt tokens told of an event."""
        self.break_scoring = False
        """Raise `breakage` after the first of these, once."""
        self.fail_seed: int | None = None
        """A seed whose streams break with Internal once another holds."""
        self.cached_tokens = 0
        self.restored_tokens = 0
        self.forms = ("", "f16", "q8", "q4", "auto")
        self.describes = 0
        self.vocabularies_sent = 0

    async def Describe(self, request: Any, context: Any) -> scheduler_pb2.DescribeReply:
        self.describes += 1
        reply = scheduler_pb2.DescribeReply(replica_id=self.replica_id, model=self.model)
        reply.vocabulary_digest = digest_of(self.vocabulary)
        if reply.vocabulary_digest not in request.known_vocabularies:
            self.vocabularies_sent += 1
            reply.vocabulary.CopyFrom(self.vocabulary)
        return reply

    async def Generate(
        self, request: scheduler_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[scheduler_pb2.GenerateEvent, None]:
        self.requests.append(request)
        if self.refuse is not None:
            raise self.refuse
        if request.kv_format not in self.forms:
            raise InvalidArgument(f"kv_format is {request.kv_format}", param="kv_format")
        seed = request.sampling.seed
        if seed == self.fail_seed:
            await self.holding.wait()
            raise Internal("the row failed")
        answer_ids = list(self.answers[seed].encode()) if seed in self.answers else self.answer_ids
        if self.script:
            answer_ids = list(self.script.pop(0).encode())
        done = len(request.token_ids) - request.prompt_tokens
        length = min(len(answer_ids), request.max_tokens or CONTEXT)
        admission = scheduler_pb2.Admission(
            replica_id=self.replica_id,
            epoch=1,
            cached_tokens=self.cached_tokens,
            kv_format=request.kv_format or "f16",
            restored_tokens=self.restored_tokens,
        )
        sent = 0
        prompt = list(request.token_ids[: request.prompt_tokens])
        scored = prompt[request.score_from :] if request.score_from else []
        try:
            while scored:
                part, scored = scored[: self.per_score], scored[self.per_score :]
                value = self.values.get(seed, -1)
                yield scheduler_pb2.GenerateEvent(
                    admission=admission, prompt_logprobs=told_of(part, request.logprobs, value)
                )
                if self.break_scoring:
                    self.break_scoring = False
                    raise self.breakage
            while True:
                if sent == self.hold_after:
                    self.holding.set()
                    await asyncio.Event().wait()
                if sent == self.stall_after:
                    self.stall_after = None
                    yield scheduler_pb2.GenerateEvent(stalled=True, losses=request.losses + 1)
                    await self.recovered.wait()
                if sent == self.break_after:
                    self.break_after = None
                    raise self.breakage
                ids = answer_ids[done : min(done + self.per_event, length)]
                done, sent = done + len(ids), sent + len(ids)
                finish = inference_pb2.FINISH_UNSPECIFIED
                if done == length:
                    whole = length == len(answer_ids)
                    finish = inference_pb2.FINISH_STOP if whole else inference_pb2.FINISH_LENGTH
                event = scheduler_pb2.GenerateEvent(token_ids=ids, finish_reason=finish, admission=admission)
                if request.HasField("logprobs") and ids:
                    event.logprobs.CopyFrom(told_of(ids, request.logprobs, self.values.get(seed, -1)))
                if finish:
                    event.timings.CopyFrom(scheduler_pb2.Timings(queue_us=1000, prefill_us=2000, decode_us=3000))
                yield event
                admission = None
                if finish:
                    return
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancellations += 1
            self.cancelled.set()
            raise
