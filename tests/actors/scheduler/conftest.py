"""Instruments: the simulated worker behind the real protocol, or in lockstep with a batch."""

import asyncio

import pytest

from actors.base.errors import Unavailable
from actors.base.vocabulary import digest_of
from actors.scheduler.batch import Batch
from actors.scheduler.costs import Costs
from actors.scheduler.kept import Restored
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.reconcile import reconcile
from actors.scheduler.sequence import Sequence, Status
from protos.gen import worker_pb2, worker_pb2_grpc
from tests.actors.scheduler.simulated_worker import EOS, VOCAB_SIZE, SimulatedWorker, answer, full_sampling


class FakeWorker(worker_pb2_grpc.WorkerServicer):
    """The simulated worker behind the real protocol. It steps while `permits` last (None: always)."""

    def __init__(self, simulated: SimulatedWorker) -> None:
        self.simulated = simulated
        self.permits: int | None = None
        # Steps after which the stream breaks; the news of that step are lost.
        self.break_after: list[int] = []
        # The first prompt token of rows that kill the worker before they get anywhere.
        self.poison: int | None = None
        self.greetings = 0
        self.vocabularies_sent = 0
        self.refusals = 0
        self.refused = asyncio.Event()
        self.reachable = True
        # Whether the next Hello ends as a call does whose server stops.
        self.stops = False
        self._stirred = asyncio.Event()
        self._steps = 0

    def permit(self, steps: int | None) -> None:
        self.permits = steps
        self._stirred.set()

    async def Hello(self, request, context):
        if not self.reachable:
            self.refusals += 1
            self.refused.set()
            raise Unavailable("not there yet")
        if self.stops:
            self.stops = False
            raise asyncio.CancelledError
        self.greetings += 1
        reply = self.simulated.hello()
        reply.vocabulary_digest = digest_of(reply.vocabulary)
        if reply.vocabulary_digest == request.known_vocabulary:
            reply.ClearField("vocabulary")
        else:
            self.vocabularies_sent += 1
        return reply

    async def Run(self, plans, context):
        reader = asyncio.create_task(self._read(plans))
        try:
            while not reader.done():
                if any(state.token_ids[0] == self.poison for state in self.simulated.runnable()):
                    raise Unavailable("the worker died of a row")
                stepped = self.permits != 0 and self.simulated.step()
                if stepped:
                    self.permits = None if self.permits is None else self.permits - 1
                    self._steps += 1
                    if self.break_after and self._steps >= self.break_after[0]:
                        self.break_after.pop(0)
                        raise Unavailable("the worker died")
                result = self.simulated.collect()
                if result is not None:
                    yield result
                if stepped or self.simulated.moves:
                    await asyncio.sleep(0)
                else:
                    await self._stirred.wait()
                    self._stirred.clear()
            reader.result()
        finally:
            reader.cancel()

    async def _read(self, plans):
        try:
            async for plan in plans:
                self.simulated.apply(plan)
                self._stirred.set()
        finally:
            self._stirred.set()


class Drive:
    """Scheduler and worker in lockstep: each plan is applied, and each step reported, after `lag` turns."""

    def __init__(self, config, lag=0, **worker):
        self.config = config
        self.lag = lag
        # Plans and results on their way, each with the turn in which it arrives.
        self.plans: list[tuple[int, worker_pb2.Plan]] = []
        self.results: list[tuple[int, worker_pb2.StepResult]] = []
        self.turns = 0
        self.worker = SimulatedWorker(**worker)
        self.queue = WaitingQueue(config.policy, config.aging_s)
        self.costs = Costs()
        self.batch = Batch(config, self.worker.hello(), self.queue, self.costs)
        self.restored: list[Restored] = []
        self.now = 0.0
        self.count = 0
        self.admitted: list[str] = []
        self.finished: list[str] = []

    def submit(self, name, prompt, new, level=1, tenant="", **more):
        """A request for `new` tokens after a prompt, or after one of so many tokens that shares nothing with others."""
        if isinstance(prompt, int):
            prompt = [100 + self.count, *range(11, 10 + prompt)]
        sequence = Sequence(
            name,
            list(prompt),
            len(prompt),
            len(prompt) + new,
            arrival_s=self.now,
            index=self.count,
            level=level,
            tenant=tenant,
            **more,
        )
        self.count += 1
        self.queue.arrive(sequence)
        return sequence

    def turn(self):
        decision = self.batch.decide(self.now)
        self.admitted += [lease.sequence.request_id for lease in decision.admit]
        if decision.urgent or self.batch.has_moves:
            self.plans.append((self.turns + self.lag, self.batch.enact(decision, self.now)))
        while self.plans and self.plans[0][0] <= self.turns:
            self.worker.apply(self.plans.pop(0)[1])
        self.worker.step()
        result = self.worker.collect()
        if result is not None:
            self.results.append((self.turns + self.lag, result))
        while self.results and self.results[0][0] <= self.turns:
            result = self.results.pop(0)[1]
            self.restored += self.batch.settle(result, self.now)
            outcome = reconcile(self.batch, result)
            self.finished += [news.sequence.request_id for news in outcome.news if news.end]
        self.turns += 1
        assert self.batch.check_integrity() == []

    @property
    def moving(self):
        """Whether KV is on its way anywhere."""
        return bool(self.worker.moves or self.plans or self.results or self.batch.has_moves)

    def cancel(self, sequence):
        """Its client is gone."""
        if sequence.status is Status.WAITING:
            self.queue.discard(sequence)
            sequence.status = Status.FINISHED
        sequence.cancelled = True

    def lose_worker(self):
        """The epoch ends and another begins, with the same disk: every row waits again."""
        gone = [*self.batch.running.values(), *(entry.sequence for entry in self.batch.leaving.values())]
        for sequence in gone:
            sequence.table.release(self.batch.allocator)
            sequence.forget_kv()
            self.queue.put_back(sequence)
            if sequence.cancelled:
                self.cancel(sequence)
        self.plans, self.results = [], []
        self.batch = Batch(self.config, self.worker.hello(), self.queue, self.costs)

    def run(self, turns=10_000):
        for _ in range(turns):
            self.turn()
            if not self.batch.running and not self.batch.leaving and not len(self.queue):
                return
        raise AssertionError("the requests do not end")


class Instruments:
    """What tests of this folder share."""

    Worker = SimulatedWorker
    Servicer = FakeWorker
    Drive = Drive
    answer = staticmethod(answer)
    sampling = staticmethod(full_sampling)
    eos = EOS
    vocab_size = VOCAB_SIZE


@pytest.fixture(scope="session")
def instruments() -> type[Instruments]:
    return Instruments
