"""Plans that move KV between tiers: rows go on with what they had."""

import numpy as np
import pytest

from actors.worker.engine import Reset
from kernels import cpu
from kernels.backend import build_decoder
from kernels.decoder import KV_BLOCK

BLOCKS = {"q8": 4, "q4": 4}
STYLE = {"temperature": 1.2, "top_p": 0.95, "top_k": 40, "seed": 7}


def prompt(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 96, length).tolist()


def alone(decoder, scheduler, kv, tokens: list[int], new: int) -> list[int]:
    one = scheduler(decoder, kv=kv)
    one.start(0, tokens, max_length=len(tokens) + new, **STYLE)
    return one.run(step_tokens=256)[0]


def test_rows_go_on_with_the_blocks_in_place_of_their_pages(toy, scheduler) -> None:
    """Two rows share demoted pages, a third begins with a block; what it came from is overwritten at once."""
    kv = toy.allocate_kv(64, 8, BLOCKS)
    q8, q4 = (tier.first_page for tier in kv.tiers[1:])
    tokens = prompt(140)
    wanted = alone(toy, scheduler, toy.allocate_kv(64, 8), tokens, 40)
    many = scheduler(toy, kv=kv)
    many.start(0, tokens, max_length=180, **STYLE)
    many.plan(step_tokens=256)
    for _ in range(10):
        assert many.tick()
    first = many.rows[0].pages[:16]
    many.start(1, tokens, cached_tokens=128, pages=first, max_length=180, **STYLE)
    many.plan()
    assert many.tick()
    many.start(2, tokens, cached_tokens=64, pages=range(q8, q8 + 8), max_length=180, **STYLE)
    many.plan(demotions=[(first[:8], q8), (first[8:16], q8 + 8)])
    for _ in range(5):
        assert many.tick()
    table = [*range(q8, q8 + 16)]
    kv.ids[first] = -1  # they are free
    many.plan(demotions=[(table[:8], q4)], release=[q8 + 16])
    while many.tick():
        pass
    assert [many.rows[row].output for row in range(3)] == [wanted, wanted, wanted]
    tables = many.engine._rows.page_table[:2]
    assert (tables[:, :16] == [*range(q4, q4 + 8), *range(q8 + 8, q8 + 16)]).all()


def test_released_units_are_forgotten(toy, scheduler) -> None:
    kv = toy.allocate_kv(64, 8, BLOCKS)
    kv.ids[:] = 5
    one = scheduler(toy, kv=kv)
    one.plan(release=[3, kv.tiers[2].first_page])
    one.tick()
    gone = [3, *range(kv.tiers[2].first_page, kv.tiers[2].first_page + 8)]
    assert np.flatnonzero((kv.ids == -1).all(axis=1)).tolist() == gone
    assert (np.delete(kv.ids, gone, axis=0) == 5).all()


def test_a_new_epoch_begins_with_no_memory_taken(toy, scheduler) -> None:
    """Its scheduler counts every tier from nothing, within one budget."""
    kv = toy.allocate_kv(64, 8, BLOCKS)
    one = scheduler(toy, kv=kv)
    one.start(0, prompt(140), max_length=180)
    one.plan(step_tokens=256)
    for _ in range(5):
        assert one.tick()
    one.plan(demotions=[(one.rows[0].pages[:8], kv.tiers[1].first_page)])
    assert one.tick()
    one.engine.submit(Reset(1))
    one.engine.tick()
    assert (kv.ids != -1).any(), "the end of an epoch leaves what is still to be saved"
    one.engine.submit(Reset(2))
    one.engine.tick()
    assert (kv.ids == -1).all()


def test_a_model_goes_on_over_quantized_tokens(tiny_model, scheduler) -> None:
    """Greedy tokens of rows that decode while what they have read is quantized, mostly the same as in f16.

    (The model's weights are random, and its attention is sharp: a wrong table would leave one token in ten.)
    """
    if not cpu.available():
        pytest.skip(cpu.reason())
    decoder = build_decoder(*tiny_model(), backend="cpu")
    same = total = 0
    for seed in range(8):
        tokens = np.random.default_rng(seed).integers(0, 96, 130).tolist()
        outputs = []
        for blocks in ({}, {"q8": 2}):
            kv = decoder.allocate_kv(16, 16, blocks)
            one = scheduler(decoder, kv=kv)
            one.start(0, tokens, max_length=160)
            one.plan(step_tokens=256)
            assert one.tick()
            if blocks:
                pages, first = one.rows[0].pages, kv.tiers[1].first_page
                moved = [(pages[:4], first), (pages[4:8], first + 4)]
                one.plan(demotions=moved)
                assert one.tick()
                assert (one.engine._rows.page_table[0, :8] == np.arange(first, first + 2 * KV_BLOCK // 16)).all()
                one.plan(release=pages[:8])
            while one.tick():
                pass
            outputs.append(one.rows[0].output)
        assert len(outputs[0]) == len(outputs[1]) == 30
        differs = next((i for i, (a, b) in enumerate(zip(*outputs, strict=True)) if a != b), 30)
        same, total = same + differs, total + 30
    assert same / total >= 0.6
