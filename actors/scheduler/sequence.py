"""A request as the scheduler sees it: tokens, pages, and where it stands."""

from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

from actors.scheduler.pages import PageTable
from actors.scheduler.prefix import Hold
from actors.scheduler.stream import TokenStream
from protos.gen import inference_pb2, worker_pb2

# Priority on the wire -> level: higher goes first.
LEVELS = {
    inference_pb2.PRIORITY_LOW: 0,
    inference_pb2.PRIORITY_NORMAL: 1,
    inference_pb2.PRIORITY_HIGH: 2,
    inference_pb2.PRIORITY_CRITICAL: 3,
}


class Status(Enum):
    """Where a sequence is; the arrows are the only moves.

        WAITING --admitted--> RUNNING --worker ended it--> FINISHED
           ^                     | preempted or cancelled
           +--acknowledged-- LEAVING --acknowledged, cancelled--> FINISHED

    LEAVING: a plan that no longer lists the row was sent, but the worker may not have applied it yet.
    """

    WAITING = "waiting"
    RUNNING = "running"
    LEAVING = "leaving"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request. Times are seconds of one monotonic clock.

            num_prompt_tokens            num_tokens
    |------ prompt ------|---- output ----|.........|  max_length
    |-- num_computed_tokens (KV) --|..... limit (lease) ....|   max_kv = max_length - 1

    The newest token's KV is computed by the step that draws the next, so KV never exceeds max_length - 1 tokens.
    """

    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    max_length: int
    arrival_s: float
    # Breaks ties of arrival_s: counts up with every request.
    index: int = 0
    level: int = LEVELS[inference_pb2.PRIORITY_NORMAL]
    tenant: str = ""
    sampling: inference_pb2.Sampling = field(default_factory=inference_pb2.Sampling)
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    # How many of the likeliest tokens are told beside each new token's log-probability; None tells nothing.
    logprobs: int | None = None
    # The prompt token whose log-probability is told next; 0: none is wanted, or all were told.
    score_from: int = 0
    # f16, q8, q4 or auto (actors.scheduler.formats).
    kv_format: str = "f16"
    # Whether its KV goes to disk when it ends.
    keep: bool = False
    # Addresses of a worker that may have its KV on disk; asked once.
    kv_source: tuple[str, ...] = ()
    # What its output is likely to be.
    prediction: tuple[int, ...] = ()
    # What its output must be; None allows anything.
    grammar: inference_pb2.Grammar | None = None
    # W3C trace context of the request's span; empty where it is not traced.
    traceparent: str = ""
    stream: TokenStream = field(default_factory=TokenStream)

    status: Status = Status.WAITING
    row: int = 0
    table: PageTable = field(default_factory=PageTable)
    # Its way into the prefix cache, while it has pages.
    hold: Hold | None = None
    # Leading tokens whose KV lies in table before admission.
    num_cached_tokens: int = 0
    num_computed_tokens: int = 0
    # Prompt tokens that the prefix cache saved it from computing.
    num_found_tokens: int = 0
    # Those whose KV came from disk on its behalf.
    num_restored_tokens: int = 0
    # Epoch and num_preemptions when it was last considered to read its KV from disk: once until it has run.
    restore_tried: tuple[int, int] = (0, 0)
    # Seed of its hash chain, then the digest of each whole page (actors.scheduler.kept).
    digests: list[bytes] = field(default_factory=list)
    # Tier, and how many of its oldest blocks were looked at to be moved there.
    settled: tuple[str, int] = ("", 0)
    # Most tokens of KV the worker may reach by itself; the table covers it.
    limit: int = 0
    cancelled: bool = False
    num_preemptions: int = 0
    # Worker losses, while it ran, since its last new token.
    num_losses: int = 0
    # Tokens that were guessed for it, and those of them that stand.
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    # Virtual start time under the fair policy.
    fair_tag: float = 0.0
    planned_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens known by now."""
        return len(self.token_ids)

    @property
    def max_kv(self) -> int:
        """Most tokens whose KV this sequence ever needs."""
        return self.max_length - 1

    @property
    def is_decoding(self) -> bool:
        """Whether all but the newest token are computed, so that every step yields a token."""
        return self.num_computed_tokens >= self.num_tokens - 1

    def forget_kv(self) -> None:
        """Back to a sequence whose KV must be computed from its first token; its pages must be given up already."""
        self.row = self.limit = self.num_computed_tokens = self.num_cached_tokens = 0
        self.hold = None
        self.settled = ("", 0)
        self.status = Status.WAITING


def row_start(sequence: Sequence) -> worker_pb2.RowStart:
    """All that the worker must know of a row that enters the batch."""
    return worker_pb2.RowStart(
        row=sequence.row,
        token_ids=sequence.token_ids,
        prompt_tokens=sequence.num_prompt_tokens,
        cached_tokens=sequence.num_cached_tokens,
        sampling=sequence.sampling,
        max_length=sequence.max_length,
        min_tokens=sequence.min_tokens,
        stop_ids=sequence.stop_ids,
        logprobs=sequence.logprobs,
        score_from=sequence.score_from,
        traceparent=sequence.traceparent,
        request_id=sequence.request_id,
        grammar=sequence.grammar,
        prediction=sequence.prediction,
        # No tenant's answers are guessed from another's: how soon a token comes would tell what the other was answered.
        draft_pool=blake2b(sequence.tenant.encode(), digest_size=16).digest(),
    )
