"""A replica in simulated time: continuous batching, prompts in chunks, a prefix cache that forgets the oldest.

A step computes one token of every row that decodes and, in the tokens left of its budget, parts of prompts in order of
arrival. It takes `step_ms` + `row_ms` per decoding row + its prompt tokens / `prefill_tokens_per_s`. A request starts
when a row and pages for its prompt and whole answer are free (Russet takes pages as it goes and may preempt). Its
figures for heartbeats are made as a scheduler makes them.
"""

import math
from collections import OrderedDict, deque
from typing import NamedTuple

from actors.scheduler.rates import Rates
from cluster.simulation.traffic import PAGE_TOKENS, Arrival
from protos.gen.scheduler_pb2 import ReplicaLoad


class Machine(NamedTuple):
    """What a replica is capable of."""

    name: str
    chip: str
    prefill_tokens_per_s: float
    step_ms: float
    row_ms: float
    max_rows: int
    pages: int
    step_tokens: int = 512
    queue_limit: int = 256


class Row:
    """A request at a replica."""

    __slots__ = ("arrival", "arrived_s", "cached", "first_s", "live_pages", "output_left", "prompt_left")

    def __init__(self, arrival: Arrival, now_s: float) -> None:
        self.arrival, self.arrived_s = arrival, now_s
        self.cached = self.live_pages = 0
        self.prompt_left = self.output_left = 0
        self.first_s = math.nan


class Served(NamedTuple):
    """A request that ended there; seconds of simulated time."""

    arrival: Arrival
    arrived_s: float
    first_s: float
    end_s: float
    cached_tokens: int


class Replica:
    """One machine. Time only goes on by advance(); a step that has begun is over at its end."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.slowness = 1.0
        """What every step takes, as a multiple of the machine's; may be changed at any time."""
        self._now_s = 0.0
        self._waiting: deque[Row] = deque()
        self._prefilling: list[Row] = []
        self._decoding: list[Row] = []
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._live_pages = 0
        self._rates = Rates()

    def submit(self, arrival: Arrival, now_s: float) -> bool:
        """Take a request; False where the queue is full or it could never fit."""
        if len(self._waiting) >= self.machine.queue_limit or arrival.pages > self.machine.pages:
            return False
        self._waiting.append(Row(arrival, now_s))
        return True

    def advance(self, until_s: float) -> list[Served]:
        """Run every step that begins before `until_s`; returns what ended."""
        served: list[Served] = []
        while self._now_s < until_s:
            self._admit()
            if self._prefilling:
                self._mixed_step(served)
            elif self._decoding:
                self._decode_steps(until_s, served)
            else:
                self._now_s = until_s
        return served

    def load(self) -> ReplicaLoad:
        """What it would say of itself."""
        machine, rates, now_s = self.machine, self._rates, self._now_s
        backlog = sum(row.prompt_left for row in self._prefilling)
        return ReplicaLoad(
            epoch=1,
            ready=True,
            running=len(self._prefilling) + len(self._decoding),
            waiting=len(self._waiting),
            queue_limit=machine.queue_limit,
            pages_used=self._live_pages,
            pages_total=machine.pages,
            page_size=PAGE_TOKENS,
            prefill_backlog_tokens=backlog + sum(row.arrival.prompt_tokens for row in self._waiting),
            prefill_tokens_per_s=rates.prefill.value(now_s),
            decode_tokens_per_s=rates.decode.value(now_s),
            step_us=rates.step.value(now_s) * 1e6,
        )

    def _admit(self) -> None:
        while self._waiting and len(self._prefilling) + len(self._decoding) < self.machine.max_rows:
            row = self._waiting[0]
            # A request that has not come by the end of the last step waits for a later one.
            if row.arrived_s > self._now_s and (self._prefilling or self._decoding):
                return
            arrival = row.arrival
            found = 0
            for page in arrival.page_keys(arrival.prompt_tokens):
                if page not in self._cache:
                    break
                found += 1
            found = min(found, (arrival.prompt_tokens - 1) // PAGE_TOKENS)
            if self._live_pages + arrival.pages - found > self.machine.pages:
                return
            self._waiting.popleft()
            self._now_s = max(self._now_s, row.arrived_s)
            for page in arrival.page_keys(found * PAGE_TOKENS):
                self._cache.move_to_end(page)
            row.cached, row.live_pages = found * PAGE_TOKENS, arrival.pages - found
            row.prompt_left, row.output_left = arrival.prompt_tokens - row.cached, arrival.output_tokens
            self._live_pages += row.live_pages
            self._shrink()
            self._prefilling.append(row)

    def _mixed_step(self, served: list[Served]) -> None:
        machine = self.machine
        room = max(1, machine.step_tokens - len(self._decoding))
        prefilled = 0
        for row in self._prefilling:
            part = min(room - prefilled, row.prompt_left)
            row.prompt_left -= part
            prefilled += part
            if prefilled >= room:
                break
        seconds = self._seconds(len(self._decoding), prefilled)
        self._now_s += seconds
        self._rates.observe_steps(1, seconds, prefilled, len(self._decoding), self._now_s)
        self._decoded(1, served)
        done = [row for row in self._prefilling if row.prompt_left == 0]
        if done:
            self._prefilling = [row for row in self._prefilling if row.prompt_left]
            for row in done:
                row.first_s = self._now_s
                row.output_left -= 1
                self._keep(row, row.arrival.prompt_tokens)
                self._decoding.append(row)
            self._decoded(0, served)

    def _decode_steps(self, until_s: float, served: list[Served]) -> None:
        """As many steps as change nothing but the number of tokens."""
        seconds = self._seconds(len(self._decoding), 0)
        steps = min(row.output_left for row in self._decoding)
        steps = max(1, min(steps, math.ceil((until_s - self._now_s) / seconds)))
        self._now_s += steps * seconds
        self._rates.observe_steps(steps, steps * seconds, 0, steps * len(self._decoding), self._now_s)
        self._decoded(steps, served)

    def _seconds(self, rows: int, prompt_tokens: int) -> float:
        machine = self.machine
        fixed_s = (machine.step_ms + machine.row_ms * rows) / 1e3
        return (fixed_s + prompt_tokens / machine.prefill_tokens_per_s) * self.slowness

    def _decoded(self, steps: int, served: list[Served]) -> None:
        ended = False
        for row in self._decoding:
            row.output_left -= steps
            ended = ended or row.output_left <= 0
        if not ended:
            return
        for row in [row for row in self._decoding if row.output_left <= 0]:
            self._live_pages -= row.live_pages
            self._keep(row, row.arrival.prompt_tokens + row.arrival.output_tokens)
            served.append(Served(row.arrival, row.arrived_s, row.first_s, self._now_s, row.cached))
        self._decoding = [row for row in self._decoding if row.output_left > 0]

    def _keep(self, row: Row, tokens: int) -> None:
        for page in row.arrival.page_keys(tokens):
            self._cache[page] = None
            self._cache.move_to_end(page)
        self._shrink()

    def _shrink(self) -> None:
        while self._cache and len(self._cache) + self._live_pages > self.machine.pages:
            self._cache.popitem(last=False)
