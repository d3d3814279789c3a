"""The engine with its keeper: KV that went to disk and came back is the KV that was computed."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.worker.engine import Reset
from actors.worker.keeper import Keeper
from actors.worker.kept import Kept
from actors.worker.ledger import Ledger
from actors.worker.results import KeptRecord
from actors.worker.sealed import Sealer
from kernels.decoder import Decoder, Kv
from protos.gen import worker_pb2

PAGE_SIZE = 8
TOKENS = np.random.default_rng(3).integers(0, 96, 61).tolist()
FULL = len(TOKENS) // PAGE_SIZE
KEYS = b"".join(bytes([number]) * 16 for number in range(FULL))


def unit(kv: Kv, page: int) -> bytes:
    into = np.empty(kv.tiers[0].unit_bytes, np.uint8)
    kv.read_unit(page, into)
    return into.tobytes()


def test_after_a_reset_restored_pages_hold_the_same_and_give_the_same_tokens(
    decoder: Decoder, scheduler: Callable, tmp_path: Path
) -> None:
    kv = decoder.allocate_kv(64, PAGE_SIZE)
    lengths = {tier.format: tier.unit_bytes for tier in kv.tiers}
    keeper = Keeper(Kept(tmp_path, Sealer(Keyring([b"k" * 32]), "maker"), lengths, 1 << 30), kv, Telemetry("worker"))
    one = scheduler(decoder, kv=kv, keeper=keeper)
    heard: list[KeptRecord] = []
    told = threading.Condition()

    def tell(record: KeptRecord) -> None:
        one.engine.tell(record)
        with told:
            heard.append(record)
            told.notify()

    def do(**fields: object) -> worker_pb2.StepResult:
        """A plan without rows, and the result that answers it."""
        plan = worker_pb2.Plan(epoch=one.ledger.epoch, plan_id=one.ledger.plan_id + 1, step_tokens=1, **fields)  # type: ignore[arg-type]
        one.ledger.accept(plan)
        one.engine.submit(plan)
        heard.clear()
        before = len(one.results)
        one.tick()
        with told:
            assert told.wait_for(
                lambda: sum(len(record.kept) + len(record.loaded) for record in heard) == FULL, timeout=10
            )
        one.tick()
        merged = worker_pb2.StepResult()
        for result in one.results[before:]:
            merged.saved += result.saved
            merged.loaded.extend(result.loaded)
        return merged

    keeper.start(tell)
    one.start(0, TOKENS, max_length=len(TOKENS) + 24, temperature=1.1, seed=5)
    output = one.run()[0]
    pages = one.drop(0).pages[:FULL]
    before = [unit(kv, page) for page in pages]
    assert do(save=pages, save_keys=KEYS).saved == KEYS

    one.engine.submit(Reset(2))
    one.ledger = Ledger(2, dataclasses.replace(one.ledger.capacity))
    for page in range(kv.pages):
        kv.write_unit(page, np.zeros(lengths["f16"], np.uint8))
    others = [page for page in range(kv.pages) if page not in pages][:FULL]
    assert list(do(load=others, load_keys=KEYS).loaded) == others
    assert [unit(kv, page) for page in others] == before
    one.free = [page for page in range(kv.pages) if page not in others]
    one.start(
        7, TOKENS, cached_tokens=PAGE_SIZE * FULL, pages=others, max_length=len(TOKENS) + 24, temperature=1.1, seed=5
    )
    assert one.run()[7] == output
    keeper.stop()
