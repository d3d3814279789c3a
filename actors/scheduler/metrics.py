"""The scheduler's metrics, under the names that dashboards for this field already know."""

from collections.abc import Iterable

from actors.base.telemetry import Telemetry
from actors.scheduler.batch import Batch, Moves
from actors.scheduler.kept import Restored
from actors.scheduler.kv_pool import TierUse
from actors.scheduler.planner import StepPlan
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_PLAN_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
_GAP_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)


class SchedulerMetrics:
    """What the scheduler measures; times in seconds."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.running = telemetry.gauge("vllm:num_requests_running", "Requests in the batch.")
        self.waiting = telemetry.gauge("vllm:num_requests_waiting", "Requests that wait for pages or a row.")
        self.kv_usage = telemetry.gauge(
            "vllm:kv_cache_usage_perc", "Share of the KV pages that live sequences reference, 0 to 1."
        )
        self.preemptions = telemetry.counter("vllm:num_preemptions_total", "Rows that gave up their pages.")
        self.drafted = telemetry.counter(
            "vllm:spec_decode_num_draft_tokens_total", "Tokens that were guessed and verified, forced ones included."
        )
        self.accepted = telemetry.counter(
            "vllm:spec_decode_num_accepted_tokens_total", "Those of them that stand: each saved its row a pass."
        )
        self.prefix_queries = telemetry.counter(
            "vllm:prefix_cache_queries_total", "Tokens of the requests that entered the batch."
        )
        self.prefix_hits = telemetry.counter(
            "vllm:prefix_cache_hits_total", "Tokens among them whose KV the prefix cache had."
        )
        self.prefix_pages = telemetry.gauge(
            "russet_prefix_cache_pages", "KV pages that the prefix cache keeps, in use or not."
        )
        self.prefix_evictions = telemetry.counter(
            "russet_prefix_cache_evictions_total", "KV pages that the prefix cache gave up for others."
        )
        self.kv_bytes = telemetry.gauge(
            "russet_kv_bytes",
            "Bytes of KV by tier: live ones are used by sequences, cached ones only kept for prompts to come.",
            labels=("tier", "state"),
        )
        self.kv_budget = telemetry.gauge("russet_kv_budget_bytes", "Most bytes of KV, over all tiers.")
        self.kv_kept = telemetry.gauge("russet_kv_kept_tokens", "Tokens whose KV lies on this replica's disk.")
        self.demoted = telemetry.counter(
            "russet_kv_demoted_tokens_total", "Tokens whose KV went to a tier of fewer bits.", labels=("tier",)
        )
        self.kv_preemptions = telemetry.counter(
            "russet_kv_preemptions_total",
            "Rows that gave up their pages, by how they come back: read from disk or computed again.",
            labels=("kind",),
        )
        self.restored_tokens = telemetry.counter(
            "russet_kv_restored_tokens_total", "Tokens whose KV was read from disk instead of being computed."
        )
        self.restore_seconds = telemetry.histogram(
            "russet_kv_restore_seconds", "From asking for a prompt's KV to having it.", buckets=_SECONDS
        )
        self.pressure = telemetry.counter(
            "russet_kv_pressure_total",
            "What was done when KV memory was short: pages evicted, tokens quantized, rows spilled to disk, requests "
            "rejected.",
            labels=("policy",),
        )
        self.prompt_tokens = telemetry.counter("vllm:prompt_tokens_total", "Prompt tokens of requests that started.")
        self.generation_tokens = telemetry.counter("vllm:generation_tokens_total", "Tokens sent to clients.")
        self.first_token = telemetry.histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", buckets=_SECONDS
        )
        self.inter_token = telemetry.histogram(
            "vllm:inter_token_latency_seconds",
            "Time between tokens of a request: of each message, the mean over its tokens.",
            buckets=_SECONDS,
        )
        self.latency = telemetry.histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to last token.", buckets=_SECONDS
        )
        self.plan_seconds = telemetry.histogram(
            "russet_scheduler_plan_seconds", "Deciding a plan and writing its message.", buckets=_PLAN_SECONDS
        )
        self.gap_seconds = telemetry.histogram(
            "russet_scheduler_gap_seconds",
            "Time in which rows could run but the worker ran nothing: of each result, the mean over its steps.",
            buckets=_GAP_SECONDS,
        )
        self.plans = telemetry.counter("russet_scheduler_plans_total", "Plans sent to the worker.")
        self.refused = telemetry.counter("russet_scheduler_refused_total", "Requests refused.", labels=("reason",))
        self._seen = Moves()
        self.worker_losses = telemetry.counter("russet_scheduler_worker_losses_total", "Epochs that ended in a loss.")

    def observe_batch(self, batch: Batch | None, waiting: int) -> None:
        """Set the gauges, and count what the batch has moved since the last call."""
        self.running.set(len(batch.running) if batch else 0)
        self.waiting.set(waiting)
        self.kv_usage.set(batch.pages_in_use / batch.allocator.num_pages if batch else 0.0)
        self.prefix_pages.set(batch.pages_cached if batch else 0)
        if batch is None:
            for tier in self._seen.demoted.keys() | {"f16"}:
                self._observe_use(TierUse(tier, 0, 0))
            self.kv_kept.set(0)
            return
        for use in batch.allocator.uses():
            self._observe_use(use)
        self.kv_kept.set(batch.tokens_kept)
        seen, self._seen = self._seen, batch.moves
        now = self._seen
        self.prefix_evictions.inc(now.evicted - seen.evicted)
        for tier, tokens in now.demoted.items():
            self.demoted.labels(tier=tier).inc(tokens - seen.demoted.get(tier, 0))
        swaps, given_up = now.swapped - seen.swapped, now.preempted - seen.preempted
        self.kv_preemptions.labels(kind="swap").inc(swaps)
        self.kv_preemptions.labels(kind="recompute").inc(given_up - swaps)
        self.pressure.labels(policy="evict").inc(now.evicted - seen.evicted)
        self.pressure.labels(policy="quantize").inc(now.quantized - seen.quantized)
        self.pressure.labels(policy="spill").inc(swaps)

    def _observe_use(self, use: TierUse) -> None:
        self.kv_bytes.labels(tier=use.format, state="live").set(use.live_bytes)
        self.kv_bytes.labels(tier=use.format, state="cached").set(use.cached_bytes)

    def begin(self, batch: Batch) -> None:
        """A new epoch: its batch counts from 0."""
        self._seen = Moves()
        self.kv_budget.set(batch.allocator.budget.capacity)

    def observe_plan(self, decision: StepPlan) -> None:
        """A plan was sent."""
        self.plans.inc()
        self.preemptions.inc(len(decision.preempt))
        for lease in decision.admit:
            self.prefix_queries.inc(lease.sequence.num_tokens)
            self.prefix_hits.inc(lease.sequence.num_cached_tokens)

    def observe_restores(self, restored: Iterable[Restored]) -> None:
        """Prompts got their KV from disk."""
        for restore in restored:
            self.restored_tokens.inc(restore.tokens)
            self.restore_seconds.observe(restore.seconds)

    def observe_tokens(self, sequence: Sequence, count: int, now_s: float) -> None:
        """`count` new tokens of a sequence go to its client; called before its last_token_s is moved on."""
        self.generation_tokens.inc(count)
        if sequence.last_token_s is None:
            self.prompt_tokens.inc(sequence.num_prompt_tokens)
            self.first_token.observe(now_s - sequence.arrival_s)
            between_s, count = 0.0, count - 1
        else:
            between_s = (now_s - sequence.last_token_s) / count
        # One observation a token, also where several came in one message.
        for _ in range(count):
            self.inter_token.observe(between_s)

    def observe_drafts(self, result: worker_pb2.StepResult) -> None:
        """What a result says of guessed tokens."""
        if result.drafted:
            self.drafted.inc(sum(result.drafted))
            self.accepted.inc(sum(result.accepted))

    def observe_gap(self, result: worker_pb2.StepResult, steps: int) -> None:
        """The gaps before the steps of a result."""
        if steps > 0:
            self.gap_seconds.observe(result.gap_us / steps * 1e-6)
