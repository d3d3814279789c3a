"""The engine with its keeper: KV that went to disk and came back is the KV that was computed."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.worker.engine import Reset
from actors.worker.keeper import Keeper
from actors.worker.kept import Kept
from actors.worker.ledger import Ledger
from actors.worker.results import KeptRecord
from actors.worker.sealed import Sealer
from kernels import cpu
from kernels.backend import build_decoder
from kernels.decoder import Decoder, Kv
from protos.gen import worker_pb2

TOKENS = np.random.default_rng(3).integers(0, 96, 150).tolist()
STYLE = {"max_length": len(TOKENS) + 24, "temperature": 1.1, "seed": 5}


class Keeping:
    """An engine that keeps KV on disk, and its scheduler."""

    def __init__(self, decoder: Decoder, kv: Kv, scheduler: Callable, directory: Path) -> None:
        self.kv = kv
        unit_bytes = {tier.format: tier.unit_bytes for tier in kv.tiers}
        kept = Kept(directory, Sealer(Keyring([b"k" * 32]), "maker"), unit_bytes, 1 << 30)
        self.keeper = Keeper(kept, kv, Telemetry("worker"))
        self.scheduler = scheduler(decoder, kv=kv, keeper=self.keeper)
        self._heard: list[KeptRecord] = []
        self._told = threading.Condition()
        self.keeper.start(self._tell)

    def _tell(self, record: KeptRecord) -> None:
        self.scheduler.engine.tell(record)
        with self._told:
            self._heard.append(record)
            self._told.notify()

    def do(self, what: str, units: Sequence[int]) -> worker_pb2.StepResult:
        """Save or load units under keys 0, 1, ...; the results, as one."""
        one = self.scheduler
        plan = worker_pb2.Plan(epoch=one.ledger.epoch, plan_id=one.ledger.plan_id + 1, step_tokens=1)
        getattr(plan, what).extend(units)
        setattr(plan, f"{what}_keys", b"".join(number.to_bytes(16) for number in range(len(units))))
        one.ledger.accept(plan)
        one.engine.submit(plan)
        self._heard.clear()
        before = len(one.results)
        one.tick()
        with self._told:
            assert self._told.wait_for(
                lambda: sum(len(record.kept) + len(record.loaded) for record in self._heard) == len(units), timeout=10
            )
        one.tick()
        merged = worker_pb2.StepResult()
        for result in one.results[before:]:
            merged.saved += result.saved
            merged.loaded.extend(result.loaded)
        return merged

    def restart(self, pages: Sequence[int]) -> None:
        """Another epoch over memory in which nothing is left; `pages` are not given to rows."""
        one = self.scheduler
        one.engine.submit(Reset(2))
        one.ledger = Ledger(2, one.ledger.capacity)
        for tier in self.kv.tiers:
            for index in range(tier.units):
                self.kv.write_unit(tier.first_page + index * tier.unit_pages, bytes(tier.unit_bytes))
        one.free = [page for page in range(self.kv.pages) if page not in pages]

    def unit(self, first_page: int, tier: int = 0) -> bytes:
        into = bytearray(self.kv.tiers[tier].unit_bytes)
        self.kv.read_unit(first_page, into)
        return bytes(into)

    def continued(self, row: int, pages: Sequence[int]) -> list[int]:
        """What follows TOKENS where the KV of their first ones is in `pages`."""
        one = self.scheduler
        one.start(row, TOKENS, cached_tokens=len(pages) * self.kv.page_size, pages=pages, **STYLE)
        output = one.run()[row]
        one.drop(row)
        return output


def test_after_a_reset_restored_pages_hold_the_same_and_give_the_same_tokens(
    decoder: Decoder, scheduler: Callable, tmp_path: Path
) -> None:
    keeping = Keeping(decoder, decoder.allocate_kv(64, 8), scheduler, tmp_path)
    one, full = keeping.scheduler, len(TOKENS) // 8
    one.start(0, TOKENS, **STYLE)
    output = one.run()[0]
    pages = one.drop(0).pages[:full]
    before = [keeping.unit(page) for page in pages]
    assert keeping.do("save", pages).saved == b"".join(number.to_bytes(16) for number in range(full))
    others = [page for page in range(64) if page not in pages][:full]
    keeping.restart(others)
    assert list(keeping.do("load", others).loaded) == others
    assert [keeping.unit(page) for page in others] == before
    assert keeping.continued(7, others) == output
    keeping.keeper.stop()


@pytest.mark.skipif(not cpu.available(), reason=cpu.reason() or "kernels.cpu is here")
def test_quantized_blocks_are_restored_too(scheduler: Callable, tiny_model: Callable, tmp_path: Path) -> None:
    decoder = build_decoder(*tiny_model(), backend="cpu")
    keeping = Keeping(decoder, decoder.allocate_kv(64, 16, {"q8": 2, "q4": 2}), scheduler, tmp_path)
    one = keeping.scheduler
    q8, q4 = (tier.first_page for tier in keeping.kv.tiers[1:])
    one.start(0, TOKENS, **STYLE)
    one.run()
    pages = one.drop(0).pages
    one.plan(demotions=[(pages[:4], q8), (pages[4:8], q4)])
    one.tick()
    output = keeping.continued(1, [*range(q8, q8 + 4), *range(q4, q4 + 4)])
    before = keeping.unit(q8, 1), keeping.unit(q4, 2)
    keeping.do("save", [q8, q4])
    keeping.restart([])
    others = q8 + 4, q4 + 4
    keeping.do("load", others)
    assert (keeping.unit(others[0], 1), keeping.unit(others[1], 2)) == before
    assert keeping.continued(2, [page for first in others for page in range(first, first + 4)]) == output
    keeping.keeper.stop()
