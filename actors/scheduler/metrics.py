"""The scheduler's metrics, under the names that dashboards for this field already know."""

from actors.base.telemetry import Telemetry
from actors.scheduler.batch import Batch
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
        self.worker_losses = telemetry.counter("russet_scheduler_worker_losses_total", "Epochs that ended in a loss.")

    def observe_batch(self, batch: Batch | None, waiting: int) -> None:
        """Set the gauges."""
        self.running.set(len(batch.running) if batch else 0)
        self.waiting.set(waiting)
        self.kv_usage.set(batch.pages_in_use / batch.allocator.num_pages if batch else 0.0)
        self.prefix_pages.set(batch.pages_cached if batch else 0)

    def observe_plan(self, decision: StepPlan, evicted: int) -> None:
        """A plan was sent, and `evicted` cached pages made room for it."""
        self.plans.inc()
        self.preemptions.inc(len(decision.preempt))
        for lease in decision.admit:
            self.prefix_queries.inc(lease.sequence.num_tokens)
            self.prefix_hits.inc(lease.sequence.num_cached_tokens)
        self.prefix_evictions.inc(evicted)

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

    def observe_gap(self, result: worker_pb2.StepResult, steps: int) -> None:
        """The gaps before the steps of a result."""
        if steps > 0:
            self.gap_seconds.observe(result.gap_us / steps * 1e-6)
