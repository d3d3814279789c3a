"""A worker that obeys worker.proto, without arithmetic, and notices every page that is not what it was."""

from dataclasses import dataclass, field

from protos.gen import inference_pb2, worker_pb2

VOCAB_SIZE = 1000
EOS = 7


def next_token(last: int, position: int) -> int:
    """The token at `position` after `last`: what this "model" says, whatever the batch. One in about 24 is EOS."""
    mixed = (last * 2654435761 + position * 40503 + 12345) % 2**32
    mixed ^= mixed >> 15
    return EOS if mixed % 24 == 0 else (mixed >> 5) % VOCAB_SIZE


def answer(prompt: list[int], max_length: int, *, ignore_eos: bool = False) -> list[int]:
    """All that the model says to a prompt, alone, without the end-of-text token."""
    token_ids = list(prompt)
    while len(token_ids) < max_length:
        token = next_token(token_ids[-1], len(token_ids))
        if token == EOS and not ignore_eos:
            break
        token_ids.append(token)
    return token_ids[len(prompt) :]


@dataclass
class Row:
    token_ids: list[int]
    max_length: int
    stop_ids: frozenset[int]
    computed: int
    limit: int = 0
    pages: list[int] = field(default_factory=list)
    new_tokens: list[int] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    end: int = worker_pb2.ROW_RUNNING


PAGE_BYTES = 1000


def keys_in(keys: bytes) -> list[bytes]:
    return [keys[start : start + 16] for start in range(0, len(keys), 16)]


class SimulatedWorker:
    """The lease rules of worker.proto. The "KV" of token i is (token, i); before a row draws, all its KV is read back,
    so a page that was given away, shared or copied wrongly fails an assertion.
    """

    def __init__(
        self,
        pages: int = 64,
        page_size: int = 4,
        max_rows: int = 8,
        max_step_tokens: int = 32,
        tiers: bool = False,
        disk: dict[bytes, list[tuple[int, int]]] | None = None,
        disk_steps: int = 1,
        guesses: int = 0,
    ) -> None:
        """`tiers`: q8, q4 and q2 too. `disk`: what is kept, by key, in `disk_steps` steps each; None keeps nothing.

        `guesses`: tokens that are guessed for each decoding row and step; some of them stand.
        """
        self.guesses = guesses
        self.num_pages, self.page_size = pages, page_size
        self.max_rows, self.max_step_tokens = max_rows, max_step_tokens
        self.disk, self.disk_steps = disk, disk_steps
        # Keys that cannot be read although they are there.
        self.unreadable: set[bytes] = set()
        # Whether loads that cannot be done are told without their keys: while these are being saved.
        self.silent_about_keys = False
        # Whether saves and loads are not answered at all.
        self.stuck = False
        self.bytes_per_s = 1e9
        self.tiers = [worker_pb2.KvTier(format="f16", first_page=0, units=pages, unit_pages=1, unit_bytes=PAGE_BYTES)]
        if tiers:
            first = pages
            for name, smaller in (("q8", 1.88), ("q4", 3.55), ("q2", 6.4)):
                unit_pages = 64 // page_size
                unit_bytes = int(unit_pages * PAGE_BYTES / smaller)
                units = pages * PAGE_BYTES // unit_bytes
                self.tiers.append(
                    worker_pb2.KvTier(
                        format=name, first_page=first, units=units, unit_pages=unit_pages, unit_bytes=unit_bytes
                    )
                )
                first += units * unit_pages
        self.tokens_loaded = self.tokens_demoted = 0
        self.most_resident = 0
        self.epoch = 0
        # Tokens whose KV was computed, over all epochs.
        self.tokens_computed = 0

    def hello(self, context_length: int = 512) -> worker_pb2.HelloReply:
        self.epoch += 1
        self.kv: dict[tuple[int, int], tuple[int, int]] = {}
        self.rows: dict[int, Row] = {}
        self.order: list[int] = []
        self.plan_id = self.reported_plan = self.step_tokens = self.step_count = 0
        self.seen_rows: set[int] = set()
        self.news: set[int] = set()
        # First page ids of units whose memory is taken.
        self.resident: set[int] = set()
        # (step at which it is done, save or load, first page id, key, what a save must find then)
        self.moves: list[tuple[int, str, int, bytes, list[tuple[int, int]]]] = []
        self.turns = 0
        return worker_pb2.HelloReply(
            tiers=self.tiers,
            kv_bytes=self.num_pages * PAGE_BYTES,
            kept=b"".join(self.disk or ()),
            keeps=self.disk is not None,
            epoch=self.epoch,
            model=worker_pb2.ModelInfo(id="tiny", revision="r1", context_length=context_length),
            vocabulary=worker_pb2.Vocabulary(vocab_size=VOCAB_SIZE, eos_ids=[EOS]),
            pages=self.num_pages,
            page_size=self.page_size,
            max_step_tokens=self.max_step_tokens,
            max_rows=self.max_rows,
            isa_class="simulated",
        )

    def apply(self, plan: worker_pb2.Plan) -> None:
        assert plan.epoch == self.epoch
        assert plan.plan_id == self.plan_id + 1
        assert len(plan.row) == len(plan.limit) == len(plan.page_count) == len(set(plan.row)) <= self.max_rows
        assert sum(plan.page_count) == len(plan.pages)
        assert 0 < plan.step_tokens <= self.max_step_tokens
        self.plan_id, self.step_tokens = plan.plan_id, plan.step_tokens
        self._move(plan)
        for source, target in zip(plan.copy_from, plan.copy_to, strict=True):
            for slot in range(self.page_size):
                if (source, slot) in self.kv:
                    self._write(target, slot, self.kv[source, slot])
        self.rows = {row: state for row, state in self.rows.items() if row in set(plan.row)}
        self.news &= set(self.rows)
        for start in plan.start:
            assert start.row not in self.seen_rows
            assert 0 <= start.cached_tokens < len(start.token_ids) < start.max_length
            self.seen_rows.add(start.row)
            self.rows[start.row] = Row(
                list(start.token_ids), start.max_length, frozenset(start.stop_ids), start.cached_tokens
            )
        self.order = list(plan.row)
        position = 0
        for row, limit, count in zip(plan.row, plan.limit, plan.page_count, strict=True):
            pages = plan.pages[position : position + count]
            position += count
            state = self.rows.get(row)
            if state is None:
                assert row in self.seen_rows
                continue
            state.pages += pages
            assert all(0 <= page < self._num_ids for page in pages)
            assert state.limit <= limit <= min(len(state.pages) * self.page_size, state.max_length - 1)
            state.limit = limit
        for page, key in zip(plan.load, keys_in(plan.load_keys), strict=True):
            self._forget(page)
            self.moves.append((self.turns + self.disk_steps, "load", page, key, []))

    @property
    def _num_ids(self) -> int:
        return sum(tier.units * tier.unit_pages for tier in self.tiers)

    def _unit(self, page: int) -> tuple[worker_pb2.KvTier, list[int]]:
        """The tier of a page and all pages of its unit."""
        tier = next(tier for tier in reversed(self.tiers) if page >= tier.first_page)
        first = page - (page - tier.first_page) % tier.unit_pages
        return tier, list(range(first, first + tier.unit_pages))

    def _content(self, page: int) -> list[tuple[int, int]]:
        return [self.kv[at, slot] for at in self._unit(page)[1] for slot in range(self.page_size)]

    def _write(self, page: int, slot: int, value: tuple[int, int]) -> None:
        self.kv[page, slot] = value
        unit = self._unit(page)[1][0]
        if unit not in self.resident:
            self.resident.add(unit)
            taken = sum(self._unit(page)[0].unit_bytes for page in self.resident)
            self.most_resident = max(self.most_resident, taken)
            assert taken <= self.num_pages * PAGE_BYTES, "more memory is taken than the budget"

    def _forget(self, page: int) -> None:
        for at in self._unit(page)[1]:
            for slot in range(self.page_size):
                self.kv.pop((at, slot), None)

    def _move(self, plan: worker_pb2.Plan) -> None:
        for page in plan.release:
            self.resident.discard(page)
            self._forget(page)
        for page, key in zip(plan.save, keys_in(plan.save_keys), strict=True):
            self.moves.append((self.turns + self.disk_steps, "save", page, key, self._content(page)))
        sources = list(plan.demote_from)
        for target in plan.demote_to:
            tier, pages = self._unit(target)
            assert pages[0] == target
            assert tier.format != "f16"
            moved, sources = sources[: tier.unit_pages], sources[tier.unit_pages :]
            self._forget(target)
            for old, new in zip(moved, pages, strict=True):
                for slot in range(self.page_size):
                    self._write(new, slot, self.kv[old, slot])
            places = dict(zip(moved, pages, strict=True))
            for state in self.rows.values():
                state.pages = [places.get(page, page) for page in state.pages]
            self.tokens_demoted += 64
        assert not sources

    def _settle_moves(self, result: worker_pb2.StepResult) -> None:
        """Saves and loads that are done by now."""
        if self.stuck:
            return
        done = [move for move in self.moves if move[0] <= self.turns]
        self.moves = [move for move in self.moves if move[0] > self.turns]
        for _, kind, page, key, content in done:
            assert self.disk is not None
            if kind == "save":
                assert self._content(page) == content, "a unit was changed while it was being saved"
                self.disk[key] = content
                result.saved += key
                continue
            _, pages = self._unit(page)
            if key not in self.disk or key in self.unreadable:
                result.unloaded.append(page)
                if not self.silent_about_keys:
                    result.lost += key
                continue
            places = ((at, slot) for at in pages for slot in range(self.page_size))
            for (at, slot), value in zip(places, self.disk[key], strict=True):
                self._write(at, slot, value)
            result.loaded.append(page)
            self.tokens_loaded += len(self.disk[key])
            result.load_bytes += len(self.disk[key]) * PAGE_BYTES // self.page_size
        result.load_us = round(result.load_bytes / self.bytes_per_s * 1e6)

    def runnable(self) -> list[Row]:
        return [self.rows[row] for row in self.order if row in self.rows and self._may_run(self.rows[row])]

    def step(self) -> bool:
        """One forward; False where nothing could run."""
        runnable = self.runnable()
        if not runnable:
            return False
        budget = self.step_tokens
        decoding = [state for state in runnable if state.computed == len(state.token_ids) - 1]
        chunks = [(state, 1) for state in decoding]
        budget -= len(decoding)
        for state in runnable:
            if state not in decoding:
                size = min(budget, state.limit - state.computed, len(state.token_ids) - state.computed)
                if size > 0:
                    chunks.append((state, size))
                    budget -= size
        for state, size in chunks:
            self._forward(state, size)
            if state in decoding:
                self._guess(state)
        self.news |= {row for row, state in self.rows.items() if any(state is other for other, _ in chunks)}
        self.step_count += 1
        return True

    def collect(self) -> worker_pb2.StepResult | None:
        """What happened since the last call; an applied plan alone is worth a message too."""
        self.turns += 1
        result = worker_pb2.StepResult(epoch=self.epoch, plan_id=self.plan_id, step=self.step_count, busy_us=100)
        self._settle_moves(result)
        moved = result.saved or result.lost or result.loaded or result.unloaded
        if not self.news and not moved and self.plan_id == self.reported_plan:
            return None
        self.reported_plan = self.plan_id
        for row in sorted(self.news):
            state = self.rows[row]
            result.row.append(row)
            result.computed.append(state.computed)
            result.token_count.append(len(state.new_tokens))
            result.token_ids.extend(state.new_tokens)
            result.end.append(state.end)
            result.decode_tokens += len(state.new_tokens)
            if self.guesses:
                result.drafted.append(state.drafted)
                result.accepted.append(state.accepted)
            state.new_tokens, state.drafted, state.accepted = [], 0, 0
            if state.end:
                del self.rows[row]
        self.news = set()
        return result

    def _may_run(self, state: Row) -> bool:
        return not state.end and state.computed < state.limit

    def _guess(self, state: Row) -> None:
        """The first guesses stand; the others leave in the KV what is not the row's."""
        tried = min(self.guesses, state.limit - state.computed)
        stand = state.token_ids[-1] % (tried + 1) if tried > 0 else 0
        last = state.computed + tried
        for _ in range(stand):
            if self._may_run(state):
                self._forward(state, 1)
                state.accepted += 1
        if not state.end:
            for position in range(state.computed, last):
                page = state.pages[position // self.page_size]
                assert page < self.num_pages, "only f16 pages are written"
                self._write(page, position % self.page_size, (-1, position))
        state.drafted += tried

    def _forward(self, state: Row, size: int) -> None:
        for position in range(state.computed, state.computed + size):
            page = state.pages[position // self.page_size]
            assert page < self.num_pages, "only f16 pages are written"
            self._write(page, position % self.page_size, (state.token_ids[position], position))
        state.computed += size
        self.tokens_computed += size
        for position in range(state.computed):
            slot = state.pages[position // self.page_size], position % self.page_size
            assert self.kv[slot] == (state.token_ids[position], position), "a page is not what it was"
        if state.computed == len(state.token_ids):
            token = next_token(state.token_ids[-1], len(state.token_ids))
            state.token_ids.append(token)
            state.new_tokens.append(token)
            if token in state.stop_ids:
                state.end = worker_pb2.ROW_STOP
            elif len(state.token_ids) == state.max_length:
                state.end = worker_pb2.ROW_LENGTH


def full_sampling() -> inference_pb2.Sampling:
    return inference_pb2.Sampling(
        temperature=0,
        top_p=1,
        top_k=0,
        min_p=0,
        repetition_penalty=1,
        presence_penalty=0,
        frequency_penalty=0,
        seed=1,
    )
