"""The dashboards as data: what each panel asks Prometheus, and how it is drawn."""

from typing import NamedTuple


class Panel(NamedTuple):
    """One panel. `queries` are pairs of PromQL and legend; `unit` is Grafana's name of one."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    """timeseries or stat."""
    about: str = ""
    most: float | None = None
    """Top of the axis, for shares."""
    stacked: bool = False


class Dashboard(NamedTuple):
    """One dashboard; `name` is its file and its id."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _per_s(metric: str, by: str = "service", where: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{where}[$__rate_interval]))"


def _grown(metric: str, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (increase({metric}[$__rate_interval]))"


def _quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    grouping = ", ".join(filter(None, ("le", by)))
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (f"histogram_quantile({share}, sum by ({grouping}) (rate({metric}_bucket[$__rate_interval])))", legend + name)
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


def _mean(metric: str, by: str = "service") -> str:
    """Of a histogram, over what it counted lately; nothing where that is nothing."""
    return f"{_per_s(f'{metric}_sum', by)} / {_per_s(f'{metric}_count', by)}"


SERVICE = "{{service}}"
_ERRORS = 'endpoint=~"/v1/.*", status=~"5.."'
_REFUSED = 'endpoint=~"/v1/.*", status=~"4.."'
_ALL = '{endpoint=~"/v1/.*"}'

OVERVIEW = Dashboard(
    "russet-overview",
    "Russet: overview",
    (
        Panel("Services up", (("sum(russet_up)", "up"), ("count(russet_up)", "known")), kind="stat"),
        Panel("Replicas that take requests", (('sum(russet_router_replicas{available="yes"})', ""),), kind="stat"),
        Panel("Tokens/s", (("sum(rate(vllm:generation_tokens_total[$__rate_interval]))", ""),), kind="stat"),
        Panel("Running", (("sum(vllm:num_requests_running)", ""),), kind="stat"),
        Panel("Waiting", (("sum(vllm:num_requests_waiting)", ""),), kind="stat"),
        Panel(
            "Share of requests that failed",
            (
                (
                    f"(sum(rate(russet_gateway_requests_total{{{_ERRORS}}}[$__rate_interval])) or vector(0)) / "
                    f"sum(rate(russet_gateway_requests_total{_ALL}[$__rate_interval]))",
                    "",
                ),
            ),
            "percentunit",
            "stat",
            "Answered with 5xx.",
        ),
        Panel(
            "Tokens/s by replica",
            ((_per_s("vllm:generation_tokens_total"), SERVICE),),
            stacked=True,
        ),
        Panel(
            "Requests/s by status",
            ((_per_s("russet_gateway_requests_total", "status", _ALL), "{{status}}"),),
            "reqps",
            stacked=True,
        ),
        Panel("Time to first token", _quantiles("vllm:time_to_first_token_seconds"), "s"),
        Panel("Time between tokens", _quantiles("vllm:inter_token_latency_seconds"), "s"),
        Panel(
            "Batch",
            (("sum(vllm:num_requests_running)", "running"), ("sum(vllm:num_requests_waiting)", "waiting")),
        ),
        Panel("KV pages in use", (("vllm:kv_cache_usage_perc", SERVICE),), "percentunit", most=1),
        Panel(
            "Who does not answer",
            (("1 - russet_up", SERVICE),),
            about="1 for a service that is away.",
            most=1,
        ),
        Panel(
            "Refused and failed",
            (
                (f"sum(rate(russet_gateway_requests_total{{{_REFUSED}}}[$__rate_interval])) or vector(0)", "4xx"),
                (f"sum(rate(russet_gateway_requests_total{{{_ERRORS}}}[$__rate_interval])) or vector(0)", "5xx"),
            ),
            "reqps",
        ),
    ),
)

SERVING = Dashboard(
    "russet-serving",
    "Russet: serving",
    (
        Panel("Whole requests", _quantiles("vllm:e2e_request_latency_seconds"), "s"),
        Panel("Prompt tokens/s", ((_per_s("vllm:prompt_tokens_total"), SERVICE),), stacked=True),
        Panel(
            "Tokens computed/s",
            ((_per_s("russet_worker_tokens_total", "service, kind"), "{{service}} {{kind}}"),),
            about="By workers: prefill is of prompts, decode of answers.",
        ),
        Panel("Step", _quantiles("russet_worker_step_seconds", "service"), "s"),
        Panel(
            "Gap between steps",
            (
                (_mean("russet_worker_gap_seconds"), "{{service}} worker"),
                (_mean("russet_scheduler_gap_seconds"), "{{service}} with plans"),
            ),
            "s",
            about="Time in which rows could run but nothing ran.",
        ),
        Panel("Deciding a plan", ((_mean("russet_scheduler_plan_seconds"), SERVICE),), "s"),
        Panel("Rows of the newest plan", (("russet_worker_rows", SERVICE),)),
        Panel(
            "KV memory",
            (
                ("sum by (tier, state) (russet_kv_bytes)", "{{tier}} {{state}}"),
                ("sum(russet_kv_budget_bytes)", "budget"),
            ),
            "bytes",
        ),
        Panel(
            "Prompt tokens found in the prefix cache",
            (
                (
                    f"{_per_s('vllm:prefix_cache_hits_total')} / {_per_s('vllm:prefix_cache_queries_total')}",
                    SERVICE,
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Short of KV memory",
            (
                (_per_s("russet_kv_pressure_total", "policy"), "{{policy}}"),
                (_per_s("vllm:num_preemptions_total", ""), "preempted rows"),
            ),
            about="What was done for want of room, a second.",
        ),
        Panel("KV on disk", (("sum by (service) (russet_kv_disk_bytes)", SERVICE),), "bytes"),
        Panel(
            "KV read back",
            ((_per_s("russet_kv_restored_tokens_total"), SERVICE),),
            about="Prompt tokens a second that were read from disk instead of being computed.",
        ),
        Panel(
            "Guessed tokens that stand",
            (
                (
                    f"{_per_s('vllm:spec_decode_num_accepted_tokens_total')} / "
                    f"({_per_s('vllm:spec_decode_num_draft_tokens_total')} > 0) "
                    "or on () (sum(vllm:spec_decode_num_draft_tokens_total) * 0)",
                    SERVICE,
                ),
            ),
            "percentunit",
            most=1,
            about="Of those that were verified; 0 without a name where none were.",
        ),
        Panel(
            "Rows and workers lost",
            (
                (_grown("russet_worker_row_errors_total", "service"), "{{service}} rows"),
                (_grown("russet_scheduler_worker_losses_total", "service"), "{{service}} workers"),
            ),
        ),
        Panel("HTTP by path", ((_mean("russet_gateway_request_seconds", "endpoint"), "{{endpoint}}"),), "s"),
        Panel("Streams moved to another replica/s", ((_per_s("russet_gateway_failovers_total"), SERVICE),)),
    ),
)

MEMORY = Dashboard(
    "russet-memory-router",
    "Russet: memory, router, learner",
    (
        Panel("Decisions/s", ((_per_s("russet_router_decisions_total", "outcome"), "{{outcome}}"),), stacked=True),
        Panel("Time of a decision", _quantiles("russet_router_decision_seconds"), "s"),
        Panel("Routed without the router/s", ((_per_s("russet_gateway_routed_alone_total", ""), "requests"),)),
        Panel("Replicas by availability", (("russet_router_replicas", "available: {{available}}"),)),
        Panel("Mean wait for the first token, as learned", (("russet_router_ttft_ms", "{{replica}}"),), "ms"),
        Panel("Mean time per token, as learned", (("russet_router_tpot_ms", "{{replica}}"),), "ms"),
        Panel("Requests that succeed, as learned", (("russet_router_success", "{{replica}}"),), "percentunit", most=1),
        Panel("Prompts scored by the cost router/s", ((_per_s("russet_cost_scored_total", ""), "prompts"),)),
        Panel("Witness entries written/s", ((_per_s("russet_witness_written_total", ""), "entries"),)),
        Panel(
            "Witness entries dropped",
            (
                (_grown("russet_witness_dropped_total"), "memory"),
                (_grown("russet_gateway_spool_dropped_total"), "gateway's spool"),
                (_grown("russet_gateway_records_dropped_total", "to"), "records to {{to}}"),
            ),
            about="Anything above 0 is lost.",
        ),
        Panel(
            "Hot tier",
            (
                (_grown("russet_hot_outages_total"), "commands without answer"),
                (_grown("russet_hot_restarts_total"), "restarts"),
            ),
        ),
        Panel("Trajectories/s", ((_per_s("russet_learner_trajectories_total", ""), "trajectories"),)),
        Panel(
            "Learner's updates",
            (
                (_per_s("russet_learner_edges_total", ""), "edges"),
                (_per_s("russet_learner_feedback_total", ""), "feedback"),
                (_per_s("russet_learner_updates_dropped_total", ""), "dropped"),
                (_per_s("russet_learner_retries_total", ""), "sent again"),
            ),
        ),
        Panel(
            "Quality of answers",
            (
                (
                    "sum by (dimension) (russet_answer_quality_sum) / sum by (dimension) (russet_answer_quality_count)",
                    "{{dimension}}",
                ),
            ),
            "percentunit",
            most=1,
            about="Mean since the start, by dimension.",
        ),
    ),
)

FLEET = Dashboard(
    "russet-fleet",
    "Russet: fleet",
    (
        Panel("Nodes", (("count(count by (node) (russet_node_memory_bytes))", ""),), kind="stat"),
        Panel("Services up", (("sum(russet_up)", ""),), kind="stat"),
        Panel("Services away", (("sum(1 - russet_up)", ""),), kind="stat"),
        Panel("Workers lost", (("sum(russet_scheduler_worker_losses_total)", ""),), kind="stat"),
        Panel(
            "Memory available",
            (('min by (node) (russet_node_memory_bytes{state="available"})', "{{node}}"),),
            "bytes",
        ),
        Panel(
            "Share of memory in use",
            (
                (
                    '1 - max by (node) (russet_node_memory_bytes{state="available"}) / '
                    'max by (node) (russet_node_memory_bytes{state="total"})',
                    "{{node}}",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel("Memory of each service's process", (("russet_process_resident_bytes", SERVICE),), "bytes"),
        Panel(
            "Cores used by each service's process",
            (("rate(russet_process_cpu_seconds_total[$__rate_interval])", SERVICE),),
            about="Services that share a process tell the same.",
        ),
        Panel("Up", (("russet_up", SERVICE),), most=1),
        Panel("Streams moved to another replica", (("sum(russet_gateway_failovers_total)", "since the start"),)),
        Panel("Batch by replica", (("vllm:num_requests_running", SERVICE),)),
        Panel("Queue by replica", (("vllm:num_requests_waiting", SERVICE),)),
    ),
)

DASHBOARDS = (OVERVIEW, SERVING, MEMORY, FLEET)
