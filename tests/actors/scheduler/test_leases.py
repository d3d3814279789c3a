"""Planner, batch and reconcile against a simulated worker that obeys worker.proto, with messages under way.

The machine decides when requests arrive and leave, when plans reach the worker, when it steps, and when its results
reach the scheduler; the simulated worker notices every page that is not what it was.
"""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.scheduler import batch as batch_module
from actors.scheduler.batch import Batch
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.pages import pages_for
from actors.scheduler.planner import plan, seniority
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.reconcile import reconcile
from actors.scheduler.sequence import Sequence, Status
from protos.gen import worker_pb2

AGING_S = 5.0


def checked_plan(state):
    """plan(), held to what it promises of every decision."""

    def snapshot():
        return [(s.status, s.limit, s.num_tokens, list(s.table.pages)) for s in (*state.running, *state.waiting)]

    before = snapshot()
    decision = plan(state)
    assert before == snapshot(), "plan() is pure"
    granted = sum(lease.pages for lease in (*decision.extend, *decision.admit))
    assert granted <= state.free_pages, "never over the page budget"
    rows = len(state.running) - len(decision.drop) - len(decision.preempt) + len(decision.admit)
    assert rows <= max(state.max_rows, 0)
    admitted = [lease.sequence for lease in decision.admit]
    assert admitted == list(state.waiting)[: len(admitted)], "nobody is overtaken"
    for lease in (*decision.extend, *decision.admit):
        held = len(lease.sequence.table) + lease.pages
        assert lease.sequence.limit < lease.limit <= min(held * state.page_size, lease.sequence.max_kv)
    for victim in decision.preempt:
        seniors = [s for s in (*state.running, *state.waiting) if s is not victim]
        assert any(seniority(s, AGING_S) < seniority(victim, AGING_S) for s in seniors)
    return decision


# Prompts that often begin alike, in pages and within them, and some that do not.
WORDS = st.sampled_from([[8] * 4, [9] * 4, [8, 9], [8] * 7])
PROMPTS = st.one_of(
    st.lists(st.integers(8, 999), min_size=1, max_size=30),
    st.lists(WORDS, min_size=1, max_size=6).map(lambda words: [token for word in words for token in word]),
)


def make_machine(instruments):
    class LeaseMachine(RuleBasedStateMachine):
        @initialize(
            pages=st.integers(4, 20),
            max_rows=st.integers(1, 5),
            lease=st.sampled_from([2, 6, 12]),
            policy=st.sampled_from(["fcfs", "priority", "shortest", "fair"]),
            strategy=st.sampled_from(["first_fit", "best_fit", "round_robin"]),
            reserve=st.sampled_from([0.0, 0.2]),
            prefix_cache=st.booleans(),
            guesses=st.sampled_from([0, 2, 6]),
        )
        def start(self, pages, max_rows, lease, policy, strategy, reserve, prefix_cache, guesses):
            self.worker = instruments.Worker(
                pages=pages, page_size=4, max_rows=max_rows, max_step_tokens=9, guesses=guesses
            )
            self.config = SchedulerConfig(
                lease_tokens=lease,
                policy=policy,
                aging_s=AGING_S,
                page_strategy=strategy,
                reserve_fraction=reserve,
                prefix_cache=prefix_cache,
            )
            self.queue = WaitingQueue(policy, AGING_S)
            self.now = 0.0
            self.sequences: list[Sequence] = []
            self.prompts: dict[Sequence, list[int]] = {}
            self.told: dict[Sequence, list[int]] = {}
            self.begin()

        def begin(self):
            self.batch = Batch(self.config, self.worker.hello(), self.queue)
            self.plans: deque[worker_pb2.Plan] = deque()
            self.results: deque[worker_pb2.StepResult] = deque()

        def advance(self):
            decision = self.batch.decide(self.now)
            if decision.urgent:
                self.plans.append(self.batch.enact(decision, self.now))

        @rule(
            prompt=PROMPTS,
            new=st.integers(1, 30),
            level=st.integers(0, 3),
            tenant=st.sampled_from("ab"),
            plan_now=st.booleans(),
        )
        def arrive(self, prompt, new, level, tenant, plan_now):
            slab = self.worker.num_pages * self.worker.page_size
            max_length = min(len(prompt) + new, slab + 1)
            if len(prompt) >= max_length:
                return
            sequence = Sequence(
                request_id=f"r{len(self.sequences)}",
                token_ids=list(prompt),
                num_prompt_tokens=len(prompt),
                max_length=max_length,
                arrival_s=self.now,
                index=len(self.sequences),
                level=level,
                tenant=tenant,
                stop_ids=(instruments.eos,),
            )
            self.sequences.append(sequence)
            self.prompts[sequence] = list(prompt)
            self.told[sequence] = []
            self.queue.arrive(sequence)
            if plan_now:
                self.advance()

        @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
        def time_passes(self, seconds):
            self.now += seconds

        @precondition(lambda self: any(s.status is not Status.FINISHED for s in self.sequences))
        @rule(data=st.data())
        def client_vanishes(self, data):
            sequence = data.draw(st.sampled_from([s for s in self.sequences if s.status is not Status.FINISHED]))
            if sequence.status is Status.WAITING:
                self.queue.discard(sequence)
                sequence.status = Status.FINISHED
            sequence.cancelled = True
            self.advance()

        @precondition(lambda self: self.plans)
        @rule()
        def plan_reaches_worker(self):
            self.worker.apply(self.plans.popleft())

        @rule(steps=st.integers(1, 8))
        def worker_steps(self, steps):
            for _ in range(steps):
                self.worker.step()

        @rule()
        def worker_reports(self):
            result = self.worker.collect()
            if result is not None:
                self.results.append(result)

        @precondition(lambda self: self.results)
        @rule()
        def result_reaches_scheduler(self):
            outcome = reconcile(self.batch, self.results.popleft())
            for news in outcome.news:
                self.told[news.sequence] += news.token_ids
                assert news.end != worker_pb2.ROW_ERROR
            if outcome.replan:
                self.advance()

        @rule()
        def worker_is_lost(self):
            for sequence in (*self.batch.running.values(), *(e.sequence for e in self.batch.leaving.values())):
                sequence.table.release(self.batch.allocator)
                if sequence.cancelled:
                    sequence.status = Status.FINISHED
                else:
                    sequence.forget_kv()
                    self.queue.put_back(sequence)
            assert self.batch.allocator.num_used == self.batch.pages_cached
            self.begin()
            self.advance()

        @invariant()
        def sound(self):
            if not hasattr(self, "batch"):
                return
            assert self.batch.check_integrity() == []
            shared = set(self.batch.cache.table().pages) if self.batch.cache else set()
            pages = [page for s in self.sequences for page in s.table.pages if page not in shared]
            assert len(pages) == len(set(pages)), "no page that rows may write belongs to two"
            assert not any(s.table.pages for s in self.sequences if s.status is Status.WAITING)
            for sequence in self.sequences:
                assert sequence.token_ids == self.prompts[sequence] + self.told[sequence] or sequence.cancelled

        def teardown(self):
            """Every accepted request ends, with what the model says to it alone, and every page comes back."""
            if not hasattr(self, "batch"):
                return
            self.advance()
            work = sum(s.max_length + 4 for s in self.sequences)
            for _ in range(4 * work * len(self.sequences) + 20):
                while self.plans:
                    self.plan_reaches_worker()
                stepped = self.worker.step()
                self.worker_reports()
                while self.results:
                    self.result_reaches_scheduler()
                self.sound()
                if not (stepped or self.plans):
                    break
            for sequence in self.sequences:
                assert sequence.status is Status.FINISHED, "every accepted request ends"
                if not sequence.cancelled:
                    expected = instruments.answer(self.prompts[sequence], sequence.max_length)
                    assert self.told[sequence] == expected
            assert self.batch.pages_in_use == 0
            if self.batch.cache:
                self.batch.cache.make_room(self.batch.allocator.num_pages)
            assert self.batch.allocator.num_used == 0
            assert self.batch.check_integrity() == []

    LeaseMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=60)
    return LeaseMachine


def test_leases_hold_whatever_is_under_way(instruments, monkeypatch):
    monkeypatch.setattr(batch_module, "plan", checked_plan)
    machine = make_machine(instruments)
    machine.TestCase("runTest").runTest()


def test_first_in_first_out_within_a_level(instruments):
    drive = instruments.Drive(SchedulerConfig(), pages=16, max_rows=2)
    for index in range(12):
        drive.submit(f"n{index}", 5, 6)
    for index in range(4):
        drive.submit(f"h{index}", 5, 6, level=2)
    drive.run()
    assert drive.admitted == [f"h{i}" for i in range(4)] + [f"n{i}" for i in range(12)]


def test_aging_lets_a_low_request_pass_a_stream_of_critical_ones(instruments):
    """Critical is three levels above low, so only what arrived in the first three to four aging_s goes before it."""
    drive = instruments.Drive(SchedulerConfig(aging_s=1.0), pages=16, max_rows=1)
    low = drive.submit("low", 4, 4, level=0)
    arrivals = {}
    for index in range(400):
        arrivals[f"c{index}"] = drive.now
        drive.submit(f"c{index}", 4, 4, level=3)
        drive.turn()
        drive.now += 0.1
        if low.status is Status.FINISHED:
            break
    assert low.status is Status.FINISHED
    assert len(drive.queue) > 10, "critical requests still wait"
    assert max(arrivals[name] for name in drive.finished if name != "low") < 4.0
    assert low.num_preemptions <= 1


def test_preempted_requests_resume_and_say_the_same(instruments):
    drive = instruments.Drive(SchedulerConfig(lease_tokens=4, reserve_fraction=0), pages=12, page_size=4, max_rows=4)
    sequences = [drive.submit(f"s{i}", 6, 30) for i in range(4)]
    drive.run()
    assert sum(s.num_preemptions for s in sequences) > 0
    for sequence in sequences:
        prompt = sequence.token_ids[:6]
        assert sequence.token_ids[6:] == instruments.answer(prompt, 36, ignore_eos=True)
    assert sequences[0].num_preemptions == 0, "the most senior row is never preempted"


def test_a_critical_request_evicts_a_low_one(instruments):
    drive = instruments.Drive(SchedulerConfig(), pages=32, max_rows=1)
    low = drive.submit("low", 4, 60, level=0)
    for _ in range(10):
        drive.turn()
    critical = drive.submit("critical", 4, 4, level=3)
    drive.run()
    assert drive.finished == ["critical", "low"]
    assert (low.num_preemptions, critical.num_preemptions) == (1, 0)


def test_a_long_prompt_is_prefilled_in_chunks_beside_decoding_rows(instruments):
    drive = instruments.Drive(SchedulerConfig(step_tokens=8), pages=64, max_rows=4, max_step_tokens=32)
    drive.submit("short", 4, 40)
    drive.turn()
    drive.turn()
    long = drive.submit("long", 60, 4)
    drive.turn()
    assert long.num_computed_tokens == 7, "one token of the budget went to the decoding row"
    drive.run()


@pytest.mark.parametrize(("target_ms", "told_us"), [(12.5, 12500), (0, 0)])
def test_every_plan_carries_the_target_for_inter_token_latency(instruments, target_ms, told_us):
    drive = instruments.Drive(SchedulerConfig(itl_target_ms=target_ms), pages=64, max_rows=4)
    told = []
    apply = drive.worker.apply
    drive.worker.apply = lambda plan: (told.append(plan.itl_target_us), apply(plan))
    drive.submit("first", 4, 40)
    drive.turn()
    drive.submit("second", 4, 4)
    drive.run()
    assert len(told) > 2
    assert set(told) == {told_us}


def test_shortest_policy_runs_short_answers_first(instruments):
    drive = instruments.Drive(SchedulerConfig(policy="shortest"), pages=64, max_rows=1)
    for name, new in (("long", 40), ("short", 3), ("middle", 12)):
        drive.submit(name, 4, new)
    drive.run()
    assert drive.admitted == ["short", "middle", "long"]


def test_fair_policy_shares_between_tenants(instruments):
    drive = instruments.Drive(SchedulerConfig(policy="fair"), pages=64, max_rows=1)
    for index in range(6):
        drive.submit(f"greedy{index}", 4, 4, tenant="greedy")
    for index in range(2):
        drive.submit(f"modest{index}", 4, 4, tenant="modest")
    drive.run()
    assert drive.admitted[:4] == ["greedy0", "modest0", "greedy1", "modest1"]


def test_a_tenant_that_was_away_has_saved_nothing_up(instruments):
    drive = instruments.Drive(SchedulerConfig(policy="fair"), pages=64, max_rows=1)
    for index in range(5):
        drive.submit(f"early{index}", 4, 4, tenant="early")
    drive.run()
    drive.admitted.clear()
    for index in range(3):
        drive.submit(f"late{index}", 4, 4, tenant="late")
    drive.submit("early5", 4, 4, tenant="early")
    drive.run()
    assert "early5" in drive.admitted[:3]


def test_fcfs_policy_ignores_levels(instruments):
    drive = instruments.Drive(SchedulerConfig(policy="fcfs"), pages=64, max_rows=1)
    for name, level in (("first", 0), ("second", 3), ("third", 1)):
        drive.submit(name, 4, 4, level=level)
    drive.run()
    assert drive.admitted == ["first", "second", "third"]


def test_a_shared_page_is_copied_before_it_is_written(instruments):
    """What a prefix cache asks of a plan: a sequence that starts with cached tokens in a forked table.

    The two agree on six tokens, a page and a half, and then differ: without the copy the second would write its own
    tokens over the first's in the page they share.
    """
    drive = instruments.Drive(SchedulerConfig(prefix_cache=False), pages=64, page_size=4, max_rows=2)
    first = drive.submit("first", 10, 20)
    drive.turn()
    drive.turn()
    second = drive.submit("second", 10, 20)
    second.token_ids = [*first.token_ids[:6], 500, 501, 502, 503]
    second.table = first.table.fork(drive.batch.allocator, 2)
    second.num_cached_tokens = 6
    prompts = [first.token_ids[:10], list(second.token_ids)]
    drive.turn()
    assert second.table.pages[0] == first.table.pages[0], "the whole page stays shared"
    assert second.table.pages[1] != first.table.pages[1], "the page that is written is not"
    drive.run()
    for sequence, prompt in zip((first, second), prompts, strict=True):
        assert sequence.token_ids[10:] == instruments.answer(prompt, 30, ignore_eos=True)
    assert drive.batch.pages_in_use == 0


def test_leases_are_renewed_at_half_so_that_the_worker_never_waits(instruments):
    """With results one step late and plans one step late, no step goes by without the row."""
    config = SchedulerConfig(lease_tokens=8)
    drive = instruments.Drive(config, pages=64, page_size=4, max_rows=1)
    drive.submit("only", 4, 120)
    plans, late = deque(), deque()
    idle = 0
    for turn in range(121):
        decision = drive.batch.decide(0.0)
        if decision.urgent:
            plans.append(drive.batch.enact(decision, 0.0))
        if len(plans) > 1 or (plans and turn == 0) or (plans and turn % 2):
            drive.worker.apply(plans.popleft())
        idle += not drive.worker.step()
        late.append(drive.worker.collect())
        if len(late) > 1 and (result := late.popleft()) is not None:
            reconcile(drive.batch, result)
    assert drive.worker.step_count >= 119
    assert idle <= 1
    assert drive.batch.plan_id < 40, "a plan covers many steps"


def test_pages_of_a_dropped_row_wait_for_the_acknowledgement(instruments):
    drive = instruments.Drive(SchedulerConfig(), pages=16, max_rows=2)
    sequence = drive.submit("gone", 6, 20)
    drive.turn()
    used = drive.batch.allocator.num_used
    assert used >= pages_for(7, 4)
    drive.worker.step()
    before_drop = drive.worker.collect()
    sequence.cancelled = True
    message = drive.batch.enact(drive.batch.decide(0.0), 0.0)
    assert list(message.row) == []
    reconcile(drive.batch, before_drop)
    assert drive.batch.allocator.num_used == used, "the worker has not applied the drop yet"
    drive.worker.apply(message)
    reconcile(drive.batch, drive.worker.collect())
    assert drive.batch.pages_in_use == 0
    assert sequence.status is Status.FINISHED
