"""Plans that must not reach the engine."""

from collections.abc import Callable

import pytest

from actors.base.errors import InvalidArgument, StaleEpoch
from actors.worker.ledger import SAMPLING_RANGES, Capacity, Ledger
from kernels.decoder import KvTier
from protos.gen import inference_pb2, worker_pb2

Plan = worker_pb2.Plan


def sampling() -> inference_pb2.Sampling:
    return inference_pb2.Sampling(
        temperature=1,
        top_p=1,
        top_k=0,
        min_p=0,
        repetition_penalty=1,
        presence_penalty=0,
        frequency_penalty=0,
        seed=2**64 - 1,
        logit_bias={0: 100, 99: -100},
    )


def plan(plan_id: int = 1) -> Plan:
    start = worker_pb2.RowStart(
        row=4, token_ids=[1, 2, 3], prompt_tokens=2, cached_tokens=2, sampling=sampling(), max_length=64, stop_ids=[99]
    )
    return Plan(
        epoch=3, plan_id=plan_id, start=[start], row=[4], limit=[16], page_count=[2], pages=[0, 9], step_tokens=32
    )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(3, Capacity(pages=10, page_size=8, max_rows=2, max_step_tokens=32, context_length=64, vocab=100))


def test_a_plan_is_booked(ledger: Ledger) -> None:
    ledger.accept(plan())
    assert (ledger.plan_id, ledger.pages_of) == (1, {4: 2})
    ledger.accept(Plan(epoch=3, plan_id=2, row=[4], limit=[24], page_count=[1], pages=[3], step_tokens=1))
    assert ledger.pages_of == {4: 3}
    ledger.accept(Plan(epoch=3, plan_id=3, step_tokens=1))
    assert ledger.pages_of == {}


def test_every_sampling_field_has_a_range() -> None:
    assert SAMPLING_RANGES.keys() | {"logit_bias"} == {f.name for f in inference_pb2.Sampling.DESCRIPTOR.fields}


def test_a_plan_of_another_epoch_is_stale(ledger: Ledger) -> None:
    stale = plan()
    stale.epoch = 2
    with pytest.raises(StaleEpoch, match="plan 1 is of epoch 2; this is epoch 3"):
        ledger.accept(stale)


BROKEN: dict[str, tuple[Callable[[Plan], object], str]] = {
    "plan id skipped": (lambda p: setattr(p, "plan_id", 2), "plan_id: 2 does not follow 0"),
    "columns differ": (lambda p: p.limit.append(1), "row has 1 entries, limit 2, page_count 1"),
    "too many rows": (
        lambda p: (p.row.extend([5, 6]), p.limit.extend([1, 1]), p.page_count.extend([0, 0])),
        "3 rows; at most 2",
    ),
    "row listed twice": (
        lambda p: (p.row.append(4), p.limit.append(1), p.page_count.append(0)),
        "a row is listed or started twice",
    ),
    "row started twice": (lambda p: p.start.append(p.start[0]), "a row is listed or started twice"),
    "unknown row": (
        lambda p: (p.row.append(5), p.limit.append(0), p.page_count.append(0)),
        "row 5 was neither started nor in the plan before",
    ),
    "start not listed": (lambda p: p.start.append(worker_pb2.RowStart(row=8)), "row 8 is started but not listed"),
    "pages too few": (lambda p: p.pages.pop(), "1 pages; page_count adds up to 2"),
    "page out of range": (lambda p: p.pages.__setitem__(1, 10), "page 10; pages are 0 to 9"),
    "copy out of range": (
        lambda p: (p.copy_from.append(0), p.copy_to.append(77)),
        "copy_to: page 77; pages are 0 to 9",
    ),
    "copies differ": (lambda p: p.copy_from.append(0), "0 entries for 1 of copy_from"),
    "no step tokens": (lambda p: setattr(p, "step_tokens", 0), "step_tokens: 0; from 1 to 32"),
    "too many step tokens": (lambda p: setattr(p, "step_tokens", 33), "step_tokens: 33; from 1 to 32"),
    "limit beyond pages": (lambda p: p.limit.__setitem__(0, 17), "limit: 17 for row 4; its 2 pages hold 16"),
    "too many pages": (
        lambda p: (p.page_count.__setitem__(0, 9), p.pages.extend([1] * 7)),
        "row 4 would hold 9 pages; at most 8",
    ),
    "no tokens": (lambda p: p.start[0].ClearField("token_ids"), "token_ids: 0 tokens for row 4"),
    "token out of range": (lambda p: p.start[0].token_ids.append(100), "token_ids: 100 for row 4; ids are 0 to 99"),
    "no prompt": (lambda p: setattr(p.start[0], "prompt_tokens", 0), "prompt_tokens: 0 for row 4; from 1 to 3"),
    "prompt too long": (lambda p: setattr(p.start[0], "prompt_tokens", 4), "prompt_tokens: 4"),
    "all cached": (lambda p: setattr(p.start[0], "cached_tokens", 3), "cached_tokens: 3 for row 4; less than its 3"),
    "cached beyond pages": (
        lambda p: (
            p.start[0].token_ids.extend([1] * 20),
            setattr(p.start[0], "cached_tokens", 17),
        ),
        "cached_tokens: 17 for row 4; its pages hold 16",
    ),
    "nothing to draw": (lambda p: setattr(p.start[0], "max_length", 3), "max_length: 3 for row 4; from 4 to 64"),
    "past the context": (lambda p: setattr(p.start[0], "max_length", 65), "max_length: 65 for row 4; from 4 to 64"),
    "stop id out of range": (lambda p: p.start[0].stop_ids.append(100), r"stop_ids: \[99, 100\] for row 4"),
    "too many stop ids": (lambda p: p.start[0].stop_ids.extend(range(64)), "stop_ids: 65 ids for row 4; at most 64"),
    "temperature": (
        lambda p: setattr(p.start[0].sampling, "temperature", -1),
        "sampling.temperature: -1.0 for row 4; from 0 to 2",
    ),
    "NaN": (lambda p: setattr(p.start[0].sampling, "min_p", float("nan")), "sampling.min_p: nan"),
    "unset field": (lambda p: p.start[0].sampling.ClearField("seed"), "sampling.seed: unset for row 4"),
    "bias of no token": (
        lambda p: p.start[0].sampling.logit_bias.update({100: 1.0}),
        "sampling.logit_bias: 100: 1.0 for row 4",
    ),
    "bias too large": (
        lambda p: p.start[0].sampling.logit_bias.update({1: float("inf")}),
        "sampling.logit_bias: 1: inf for row 4",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_plan_is_refused_naming_the_value(ledger: Ledger, broken: str) -> None:
    breaks, message = BROKEN[broken]
    refused = plan()
    breaks(refused)
    with pytest.raises(InvalidArgument, match=message):
        ledger.accept(refused)
    assert (ledger.plan_id, ledger.pages_of) == (0, {})
    ledger.accept(plan())


TIERED = Capacity(
    pages=8,
    page_size=16,
    max_rows=2,
    max_step_tokens=32,
    context_length=256,
    vocab=100,
    tiers=(KvTier("f16", 0, 8, 1, 100), KvTier("q8", 8, 2, 4, 200)),
)


def tiered_plan(**changes: object) -> Plan:
    """A row whose first 80 tokens are cached: a block, and a page."""
    start = worker_pb2.RowStart(
        row=4, token_ids=[1] * 90, prompt_tokens=90, cached_tokens=80, sampling=sampling(), max_length=100
    )
    columns = {"row": [4], "limit": [90], "page_count": [6], "pages": [8, 9, 10, 11, 0, 1], "step_tokens": 32}
    return Plan(epoch=3, plan_id=1, start=[start], **(columns | changes))


def test_cached_tokens_may_lie_in_any_tier() -> None:
    ledger = Ledger(3, TIERED)
    ledger.accept(tiered_plan(release=[12, 3], demote_from=[4, 5, 6, 7], demote_to=[12], copy_from=[9], copy_to=[2]))
    ledger.accept(Plan(epoch=3, plan_id=2, row=[4], limit=[112], page_count=[1], pages=[2], step_tokens=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pages": [8, 9, 10, 11, 0, 12]}, "pages: page 12 of row 4 will be written: f16 is 0 to 7"),
        ({"pages": [8, 9, 10, 11, 0, 16]}, "pages: page 16; pages are 0 to 15"),
        ({"release": [13]}, "release: page 13 is inside a block"),
        ({"release": [16]}, "release: page 16; pages are 0 to 15"),
        ({"demote_from": [4, 5, 6], "demote_to": [12]}, "demote_from: 3 pages for 1 blocks of 4 pages"),
        ({"demote_from": [4, 5, 6, 7], "demote_to": [20]}, "demote_to: page 20; pages are 0 to 15"),
        ({"copy_from": [8], "copy_to": [9]}, "copy_to: page 9; pages are 0 to 7"),
    ],
)
def test_units_that_cannot_be_used_so_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Ledger(3, TIERED).accept(tiered_plan(**changes))


def test_what_a_row_appends_is_written() -> None:
    ledger = Ledger(3, TIERED)
    ledger.accept(tiered_plan())
    with pytest.raises(InvalidArgument, match="page 12 of row 4 will be written"):
        ledger.accept(Plan(epoch=3, plan_id=2, row=[4], limit=[112], page_count=[1], pages=[12], step_tokens=1))


def test_a_row_cannot_start_again_while_it_is_there(ledger: Ledger) -> None:
    ledger.accept(plan())
    with pytest.raises(InvalidArgument, match="row 4 is started twice"):
        ledger.accept(plan(2))


class TestKept:
    """Units to be saved and loaded: 8 pages of f16, then 2 blocks of 4 pages."""

    TIERS = (KvTier("f16", 0, 8, 1, 40), KvTier("q8", 8, 2, 4, 90))

    def ledger(self, keeps: bool = True) -> Ledger:
        return Ledger(3, Capacity(8, 16, 2, 32, 64, 100, self.TIERS, keeps))

    @staticmethod
    def plan(save: list[int], load: list[int]) -> Plan:
        keys = [number.to_bytes(16) for number in (*save, *load)]
        save_keys, load_keys = b"".join(keys[: len(save)]), b"".join(keys[len(save) :])
        return Plan(epoch=3, plan_id=1, step_tokens=1, save=save, save_keys=save_keys, load=load, load_keys=load_keys)

    def test_units_are_named_by_their_first_page(self) -> None:
        self.ledger().accept(self.plan([0, 7, 8], [6, 12]))
        inside, outside = "is inside a block; a unit is its first page", "pages are 0 to 15"
        for unit, why in ((9, inside), (15, inside), (16, outside), (2**31, outside)):
            for plan in (self.plan([0, unit], []), self.plan([], [unit])):
                with pytest.raises(InvalidArgument, match=why):
                    self.ledger().accept(plan)

    def test_every_unit_has_a_key_and_is_listed_once(self) -> None:
        short = self.plan([0, 1], [2])
        short.save_keys = short.save_keys[:-1]
        with pytest.raises(InvalidArgument, match="save_keys: 31 bytes; 16 for each of 2"):
            self.ledger().accept(short)
        without = self.plan([], [2])
        without.load_keys = b""
        with pytest.raises(InvalidArgument, match="load_keys: 0 bytes; 16 for each of 1"):
            self.ledger().accept(without)
        with pytest.raises(InvalidArgument, match="save: a unit is listed twice"):
            self.ledger().accept(self.plan([1, 1], []))
        with pytest.raises(InvalidArgument, match="load: unit 1 is being saved"):
            self.ledger().accept(self.plan([1], [1]))

    def test_a_worker_that_keeps_nothing_refuses_both(self) -> None:
        for plan in (self.plan([0], []), self.plan([], [0])):
            with pytest.raises(InvalidArgument, match="this worker keeps no KV on disk"):
                self.ledger(keeps=False).accept(plan)
