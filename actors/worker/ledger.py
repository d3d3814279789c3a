"""Checks plans before the engine sees them: it may then trust every one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from actors.base.errors import InvalidArgument, StaleEpoch
from actors.worker.rows import MAX_STOP_IDS
from actors.worker.sealed import KEY_BYTES
from actors.worker.units import Units
from kernels.decoder import KvTier
from kernels.logprobs import MAX_TOP
from protos.gen import worker_pb2


@dataclass(frozen=True)
class Capacity:
    """What plans must stay within."""

    pages: int
    page_size: int
    max_rows: int
    max_step_tokens: int
    context_length: int
    vocab: int
    tiers: tuple[KvTier, ...] = ()
    """As kernels.decoder.Kv has them; none stands for pages of f16 alone."""
    keeps: bool = False
    """Whether units may be saved and loaded."""

    @cached_property
    def units(self) -> Units:
        """The page ids of all tiers."""
        return Units(self.tiers or (KvTier("f16", 0, self.pages, 1, 0),))


@dataclass
class Ledger:
    """What the plans of one epoch have granted so far. Rows that ended stay until a plan drops them."""

    epoch: int
    capacity: Capacity
    plan_id: int = 0
    pages_of: dict[int, int] = field(default_factory=dict)
    """Pages in each row's table."""

    def accept(self, plan: worker_pb2.Plan) -> None:
        """Book a plan. Raises InvalidArgument or StaleEpoch naming the value; the ledger is then unchanged."""
        if plan.epoch != self.epoch:
            raise StaleEpoch(f"plan {plan.plan_id} is of epoch {plan.epoch}; this is epoch {self.epoch}", param="epoch")
        if plan.plan_id != self.plan_id + 1:
            raise self._refuse(plan, "plan_id", f"{plan.plan_id} does not follow {self.plan_id}")
        self._check_columns(plan)
        self._check_units(plan)
        if plan.save or plan.load or plan.save_keys or plan.load_keys:
            self._check_kept(plan)
        starts = {start.row: start for start in plan.start}
        pages_of: dict[int, int] = {}
        taken = 0
        for row, limit, page_count in zip(plan.row, plan.limit, plan.page_count, strict=True):
            start = starts.get(row)
            if (start is None) == (row not in self.pages_of):
                problem = "is started twice" if start else "was neither started nor in the plan before"
                raise self._refuse(plan, "row", f"row {row} {problem}")
            pages_of[row] = self.pages_of.get(row, 0) + page_count
            self._check_pages(plan, row, pages_of[row], limit, start)
            cached = start.cached_tokens // self.capacity.page_size if start else 0
            self._check_written(plan, row, plan.pages[taken + cached : taken + page_count])
            taken += page_count
        for start in plan.start:
            if start.row not in pages_of:
                raise self._refuse(plan, "start", f"row {start.row} is started but not listed in row")
            self._check_start(plan, start)
        self.plan_id, self.pages_of = plan.plan_id, pages_of

    def _check_columns(self, plan: worker_pb2.Plan) -> None:
        has = self.capacity
        rows = len(plan.row)
        if not rows == len(plan.limit) == len(plan.page_count):
            lengths = f"row has {rows} entries, limit {len(plan.limit)}, page_count {len(plan.page_count)}"
            raise self._refuse(plan, "row", f"{lengths}; they are parallel")
        if rows > has.max_rows:
            raise self._refuse(plan, "row", f"{rows} rows; at most {has.max_rows}")
        if len(set(plan.row)) < rows or len({start.row for start in plan.start}) < len(plan.start):
            raise self._refuse(plan, "row", "a row is listed or started twice")
        if sum(plan.page_count) != len(plan.pages):
            raise self._refuse(plan, "pages", f"{len(plan.pages)} pages; page_count adds up to {sum(plan.page_count)}")
        if len(plan.copy_from) != len(plan.copy_to):
            raise self._refuse(plan, "copy_to", f"{len(plan.copy_to)} entries for {len(plan.copy_from)} of copy_from")
        for name, count in (
            ("pages", has.units.count),
            ("copy_from", has.units.count),
            ("copy_to", has.pages),
            ("release", has.units.count),
            ("demote_from", has.units.count),
            ("demote_to", has.units.count),
            ("save", has.units.count),
            ("load", has.units.count),
        ):
            ids = getattr(plan, name)
            if ids and max(ids) >= count:
                raise self._refuse(plan, name, f"page {max(ids)}; pages are 0 to {count - 1}")
        if not 1 <= plan.step_tokens <= has.max_step_tokens:
            raise self._refuse(plan, "step_tokens", f"{plan.step_tokens}; from 1 to {has.max_step_tokens}")

    def _check_units(self, plan: worker_pb2.Plan) -> None:
        units = self.capacity.units
        if plan.release:
            released = np.array(plan.release, np.int32)
            if (inside := released[~units.begins(released)]).size:
                raise self._refuse(plan, "release", f"page {inside[0]} is inside a block; a unit is its first page")
        if plan.demote_to or plan.demote_from:
            problem = units.misplaced(np.array(plan.demote_from, np.int32), np.array(plan.demote_to, np.int32))
            if problem is not None:
                raise self._refuse(plan, "demote_from", problem)

    def _check_written(self, plan: worker_pb2.Plan, row: int, pages: Sequence[int]) -> None:
        if pages and max(pages) >= self.capacity.pages:
            last = self.capacity.pages - 1
            raise self._refuse(plan, "pages", f"page {max(pages)} of row {row} will be written: f16 is 0 to {last}")

    def _check_kept(self, plan: worker_pb2.Plan) -> None:
        has = self.capacity
        if not has.keeps:
            raise self._refuse(plan, "save", "this worker keeps no KV on disk (kv_disk_bytes, kv_disk_directory)")
        for name in ("save", "load"):
            units, keys = getattr(plan, name), getattr(plan, f"{name}_keys")
            if len(keys) != KEY_BYTES * len(units):
                raise self._refuse(plan, f"{name}_keys", f"{len(keys)} bytes; {KEY_BYTES} for each of {len(units)}")
            if len(set(units)) < len(units):
                raise self._refuse(plan, name, "a unit is listed twice")
            ids = np.array(units, np.int32)
            if (inside := ids[~has.units.begins(ids)]).size:
                raise self._refuse(plan, name, f"page {inside[0]} is inside a block; a unit is its first page")
        if both := set(plan.save) & set(plan.load):
            raise self._refuse(plan, "load", f"unit {min(both)} is being saved")

    def _check_pages(
        self, plan: worker_pb2.Plan, row: int, pages: int, limit: int, start: worker_pb2.RowStart | None
    ) -> None:
        has = self.capacity
        most = -(-has.context_length // has.page_size)
        if pages > most:
            raise self._refuse(plan, "page_count", f"row {row} would hold {pages} pages; at most {most}")
        if limit > pages * has.page_size:
            raise self._refuse(plan, "limit", f"{limit} for row {row}; its {pages} pages hold {pages * has.page_size}")
        if start is not None and start.cached_tokens > pages * has.page_size:
            held = pages * has.page_size
            raise self._refuse(plan, "cached_tokens", f"{start.cached_tokens} for row {row}; its pages hold {held}")

    def _check_start(self, plan: worker_pb2.Plan, start: worker_pb2.RowStart) -> None:
        has = self.capacity
        tokens = len(start.token_ids)

        def require(holds: bool, name: str, value: object, accepted: str) -> None:
            if not holds:
                raise self._refuse(plan, name, f"{value} for row {start.row}; {accepted}")

        require(0 < tokens < has.context_length, "token_ids", f"{tokens} tokens", f"from 1 to {has.context_length - 1}")
        newest = int(np.max(start.token_ids))
        require(newest < has.vocab, "token_ids", newest, f"ids are 0 to {has.vocab - 1}")
        require(0 < start.prompt_tokens <= tokens, "prompt_tokens", start.prompt_tokens, f"from 1 to {tokens}")
        require(start.cached_tokens < tokens, "cached_tokens", start.cached_tokens, f"less than its {tokens} tokens")
        length = start.max_length
        require(
            tokens < length <= has.context_length, "max_length", length, f"from {tokens + 1} to {has.context_length}"
        )
        stops = len(start.stop_ids)
        require(stops <= MAX_STOP_IDS, "stop_ids", f"{stops} ids", f"at most {MAX_STOP_IDS}")
        require(max(start.stop_ids, default=0) < has.vocab, "stop_ids", list(start.stop_ids), f"less than {has.vocab}")
        require(start.logprobs <= MAX_TOP, "logprobs", start.logprobs, f"at most {MAX_TOP}")
        require(len(start.draft_pool) <= MAX_POOL_BYTES, "draft_pool", f"{len(start.draft_pool)} bytes", "at most 256")
        require(
            len(start.prediction) <= has.context_length,
            "prediction",
            f"{len(start.prediction)} ids",
            "what fits the context",
        )
        require(
            max(start.prediction, default=0) < has.vocab,
            "prediction",
            max(start.prediction, default=0),
            f"less than {has.vocab}",
        )
        if start.HasField("grammar"):
            require(stops > 0, "stop_ids", "none", "with a grammar at least one, which ends what is complete")
        require(
            not start.score_from or (start.HasField("logprobs") and start.score_from <= start.prompt_tokens),
            "score_from",
            start.score_from,
            f"with logprobs, from 1 to {start.prompt_tokens}",
        )
        require(
            not start.score_from or start.cached_tokens < start.score_from,
            "cached_tokens",
            start.cached_tokens,
            f"less than score_from, {start.score_from}",
        )
        sampling = start.sampling
        for name, (holds, accepted) in SAMPLING_RANGES.items():
            require(sampling.HasField(name), f"sampling.{name}", "unset", "workers know no defaults: set every field")
            value = getattr(sampling, name)
            require(holds(value), f"sampling.{name}", value, accepted)
        for token, value in sampling.logit_bias.items():
            require(token < has.vocab and abs(value) <= 100, "sampling.logit_bias", f"{token}: {value}", BIAS_RANGE)

    @staticmethod
    def _refuse(plan: worker_pb2.Plan, param: str, problem: str) -> InvalidArgument:
        return InvalidArgument(f"plan {plan.plan_id} of epoch {plan.epoch}: {param}: {problem}", param=param)


MAX_POOL_BYTES = 256

BIAS_RANGE = "ids of the vocabulary, values from -100 to 100"

SAMPLING_RANGES = {
    "temperature": (lambda value: 0 <= value <= 2, "from 0 to 2"),
    "top_p": (lambda value: 0 < value <= 1, "above 0, to 1"),
    "top_k": (lambda value: value >= 0, "0 or more"),
    "min_p": (lambda value: 0 <= value < 1, "from 0, below 1"),
    "repetition_penalty": (lambda value: 0 < value < math.inf, "above 0"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "from -2 to 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "from -2 to 2"),
    "seed": (lambda value: value >= 0, "0 or more"),
}
"""Field of Sampling -> whether a value is in its range (NaN never is), and the range in words."""
