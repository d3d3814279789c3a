"""Random plans against the lease rule: never past a limit, pages hold what they should, every row ends as it must."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from kernels.sampling import SampleBatch, sample
from protos.gen import worker_pb2

VOCAB, CONTEXT, PAGE_SIZE, MAX_ROWS, PAGES = 96, 192, 8, 6, 160
STOP = 5
SAMPLING = {"temperature": 0.8, "top_p": 0.9}


def answer(logits, prompt: list[int], seed: int, max_length: int) -> tuple[list[int], int]:
    """The oracle: prompt and answer drawn one by one without any engine, and how the row ends."""
    tokens = list(prompt)
    no_spans = (np.zeros(2, np.int32), np.zeros(0, np.int32))
    while True:
        batch = SampleBatch(
            temperature=np.array([0.8], np.float32),
            top_k=np.zeros(1, np.int32),
            top_p=np.array([0.9], np.float32),
            min_p=np.zeros(1, np.float32),
            repetition=np.ones(1, np.float32),
            presence=np.zeros(1, np.float32),
            frequency=np.zeros(1, np.float32),
            seed=np.array([seed], np.uint64),
            position=np.array([len(tokens)], np.int32),
            seen_starts=no_spans[0],
            seen_ids=no_spans[1],
            seen_output_counts=no_spans[1],
            bias_starts=no_spans[0],
            bias_ids=no_spans[1],
            bias_values=np.zeros(0, np.float32),
        )
        tokens.append(int(sample(logits(tokens)[None], batch)[0]))
        if tokens[-1] == STOP:
            return tokens, worker_pb2.ROW_STOP
        if len(tokens) == max_length:
            return tokens, worker_pb2.ROW_LENGTH


@pytest.mark.timeout(120)
def test_random_plans(toy, scheduler) -> None:
    class Plans(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = type(toy)()
            self.kv = self.decoder.allocate_kv(PAGES, PAGE_SIZE)
            self.scheduler = scheduler(self.decoder, kv=self.kv, max_rows=MAX_ROWS)
            self.rows = self.scheduler.rows
            self.free = self.scheduler.free
            self.answers: dict[int, tuple[list[int], int]] = {}
            self.requests: dict[int, tuple[int, int]] = {}  # seed, max_length
            self.numbers = iter(range(1_000_000))
            self.step_tokens = 16

        def send(self, copies: list[tuple[int, int]] = ()) -> None:
            self.scheduler.plan(self.step_tokens, copies)
            self.tick()

        def tick(self) -> None:
            """One step; what it computed is within the leases, and the KV holds exactly the rows' tokens."""
            ran = self.scheduler.tick()
            batches, self.decoder.batches = self.decoder.batches, []
            assert len(batches) == ran
            for batch in batches:
                result = self.scheduler.results[-1]
                counts = np.diff(batch.row_starts)
                assert len(counts) == len(result.row)
                for row, length, count in zip(result.row, batch.lengths, counts, strict=True):
                    assert length + count <= self.rows[row].granted
                    assert self.rows[row].computed == length + count
                assert len(batch.tokens) <= max(self.step_tokens, len(counts))
            for row, state in self.rows.items():
                tokens, end = self.answers[row]
                assert state.tokens == tokens[: len(state.tokens)]
                kept = self.kv.ids[state.pages].reshape(-1)
                assert kept[: state.computed].tolist() == state.tokens[: state.computed]
                if state.end != worker_pb2.ROW_RUNNING:
                    assert (state.tokens, state.end) == (tokens, end)

        def room(self) -> bool:
            return len(self.rows) < MAX_ROWS and len(self.free) > CONTEXT // PAGE_SIZE

        def enter(self, prompt: list[int], seed: int, max_length: int, limit: int, **start: object) -> int:
            row = next(self.numbers)
            self.answers[row] = answer(self.decoder.logits, prompt, seed, max_length)
            self.requests[row] = seed, max_length
            start = {"tokens": prompt, "prompt_tokens": len(prompt)} | start
            self.scheduler.start(
                row, limit=limit, max_length=max_length, stop_ids=[STOP], seed=seed, **SAMPLING, **start
            )
            return row

        @precondition(room)
        @rule(
            prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40),
            more=st.integers(1, 30),
            limit=st.integers(0, 64),
        )
        def start(self, prompt: list[int], more: int, limit: int) -> None:
            self.enter(prompt, len(self.answers), len(prompt) + more, limit)
            self.send()

        @precondition(lambda self: self.rows)
        @rule(data=st.data(), change=st.integers(-4, 20))
        def lease(self, data: st.DataObject, change: int) -> None:
            row = data.draw(st.sampled_from(sorted(self.rows)))
            limit = self.rows[row].limit + change
            if 0 <= limit <= CONTEXT and len(self.free) > 3:
                self.scheduler.lease(row, limit)
                self.send()

        @precondition(lambda self: self.rows)
        @rule(data=st.data(), resume=st.booleans(), limit=st.integers(0, 64))
        def drop(self, data: st.DataObject, resume: bool, limit: int) -> None:
            """Cancelled, or preempted and started again from its tokens."""
            row = data.draw(st.sampled_from(sorted(self.rows)))
            state = self.scheduler.drop(row)
            self.send()
            held = {page for other in self.rows.values() for page in other.pages}
            self.free += [page for page in state.pages if page not in held]
            if resume and state.end == worker_pb2.ROW_RUNNING and self.room():
                prompt = state.tokens[: state.prompt_tokens]
                self.enter(prompt, *self.requests[row], limit, tokens=state.tokens)
                self.send()

        @precondition(lambda self: self.room() and any(state.computed for state in self.rows.values()))
        @rule(data=st.data(), token=st.integers(0, VOCAB - 1))
        def share(self, data: st.DataObject, token: int) -> None:
            """A new row over another's KV: full pages are shared, the partly filled one is copied."""
            donor = self.rows[data.draw(st.sampled_from([r for r, s in sorted(self.rows.items()) if s.computed]))]
            cached = data.draw(st.integers(1, donor.computed))
            if cached + 32 > CONTEXT:
                return
            pages = donor.pages[: cached // PAGE_SIZE]
            copies = []
            if cached % PAGE_SIZE:
                copies = [(donor.pages[cached // PAGE_SIZE], self.free.pop())]
                pages = [*pages, copies[0][1]]
            prompt = [*donor.tokens[:cached], token]
            self.enter(prompt, len(self.answers), cached + 20, cached, cached_tokens=cached, pages=pages)
            self.send(copies)

        @rule(step_tokens=st.integers(1, 64), ticks=st.integers(1, 6))
        def run(self, step_tokens: int, ticks: int) -> None:
            self.step_tokens = step_tokens
            self.send()
            for _ in range(ticks):
                self.tick()

        def teardown(self) -> None:
            """Whatever happened: with leases to its end, every row ends as the oracle says."""
            for row in sorted(self.rows):
                tokens, _ = self.answers[row]
                if -(-len(tokens) // PAGE_SIZE) - len(self.rows[row].pages) <= len(self.free):
                    self.scheduler.lease(row, max(len(tokens), self.rows[row].limit))
            self.send()
            while any(min(len(s.tokens), s.granted) > s.computed for s in self.rows.values() if not s.end):
                self.tick()
            for row, state in self.rows.items():
                if state.granted >= len(self.answers[row][0]):
                    assert (state.tokens, state.end) == self.answers[row]

    run_state_machine_as_test(Plans, settings=settings(max_examples=50, stateful_step_count=25))
