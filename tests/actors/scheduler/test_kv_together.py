"""Everything that happens to KV, at once: long days of many requests, drawn at random.

Hypothesis finds the smallest script that breaks something (test_tiers), but seldom one in which rows give way, come
back from disk and are archived, all in one.
"""

import random

import pytest

from actors.scheduler.config import SchedulerConfig

TEXTS = 6


def prompt(length, start):
    return [(start * 131 + 7 * i) % 900 + 50 for i in range(length)]


def machine(instruments, dice):
    """A worker of a few hundred tokens' memory, and a scheduler that is busy with it."""
    page_size = dice.choice([16, 32, 64])
    config = SchedulerConfig(
        lease_tokens=dice.choice([2, 8, 32]),
        kv_tail_tokens=dice.choice([64, 100, 200]),
        reserve_fraction=dice.choice([0, 0.05]),
        prefix_cache=dice.random() < 0.9,
        page_strategy=dice.choice(["first_fit", "best_fit", "round_robin"]),
        policy=dice.choice(["priority", "fcfs", "fair", "shortest"]),
    )
    it = instruments.Drive(
        config,
        lag=dice.randrange(4),
        pages=dice.randint(576, 2500) // page_size,
        page_size=page_size,
        tiers=True,
        max_step_tokens=64,
        max_rows=dice.choice([2, 8, 16]),
        disk={} if dice.random() < 0.8 else None,
        disk_steps=dice.randint(1, 6),
        guesses=dice.choice([0, 3, 8]),
    )
    it.costs.prefill_tokens_per_s = dice.choice([1.0, 1e3, 1e9])
    it.worker.silent_about_keys = dice.random() < 0.3
    return it


class Day:
    """Requests that came, and what they must say."""

    def __init__(self, instruments, seed):
        self.instruments = instruments
        self.dice = random.Random(seed)
        self.it = machine(instruments, self.dice)
        self.forms = self.dice.choice([["auto"], ["f16"], ["q4"], ["q8", "auto"], ["f16", "q8", "q4", "auto"]])
        self.asked = []

    def request(self):
        """A prompt that begins like others, perhaps the next turn of a conversation."""
        dice = self.dice
        if self.asked and dice.random() < 0.3:
            text = [*dice.choice(self.asked)[0].token_ids, 5, 6][:510]
        else:
            text = prompt(dice.choice([64, 128, 256, 400, 448, dice.randint(1, 500)]), dice.randrange(TEXTS))
            text[-1] = dice.choice([text[-1], 1, 2, 3])
        stops, new = dice.random() < 0.4, dice.choice([1, 2, 60])
        sequence = self.it.submit(
            f"r{len(self.asked)}",
            text,
            new,
            level=dice.randrange(4),
            kv_format=dice.choice(self.forms),
            keep=dice.random() < 0.5,
            kv_source=("unix:/other",) if dice.random() < 0.15 else (),
            stop_ids=(self.instruments.eos,) if stops else (),
        )
        self.asked.append((sequence, text, new, stops))

    def event(self):
        """Mostly requests and work; seldom a misfortune."""
        it, dice = self.it, self.dice
        what = dice.random()
        if what < 0.5:
            self.request()
        elif what < 0.85:
            for _ in range(dice.randint(1, 40)):
                it.turn()
        elif what < 0.88 and self.asked:
            it.cancel(dice.choice(self.asked)[0])
        elif what < 0.90 and it.worker.disk:
            it.worker.unreadable.add(dice.choice(sorted(it.worker.disk)))
        elif what < 0.92:
            it.lose_worker()
        elif what < 0.97:
            it.now += dice.randint(1, 30)
        else:
            it.worker.stuck = not it.worker.stuck

    def end(self):
        """All get their tokens, and nothing is held or on its way any more."""
        self.it.worker.stuck = False
        self.it.run(turns=4000)
        for sequence, text, new, stops in self.asked:
            said = sequence.token_ids[len(text) :]
            assert sequence.cancelled or said == self.instruments.answer(text, len(text) + new, ignore_eos=not stops)
        for _ in range(1000):
            if not self.it.moving:
                break
            self.it.turn()
        assert not self.it.moving
        assert self.it.batch.allocator.live_bytes == 0


@pytest.mark.parametrize("first", range(0, 80, 40))
def test_on_long_days_everyone_gets_their_tokens_within_the_budget(instruments, first):
    """The simulated worker checks every token of KV that is read or saved, and that memory stays within the budget."""
    seen = set()
    for seed in range(first, first + 40):
        day = Day(instruments, seed)
        for _ in range(day.dice.randint(10, 50)):
            day.event()
        day.end()
        moves = day.it.batch.moves
        seen |= {name for name in ("evicted", "preempted", "swapped", "quantized") if getattr(moves, name)}
        seen |= {tier for tier, tokens in moves.demoted.items() if tokens}
        seen |= {"restored" for restored in day.it.restored if restored.tokens}
    assert seen == {"evicted", "preempted", "swapped", "quantized", "q8", "q4", "q2", "restored"}
