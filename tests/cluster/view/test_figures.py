"""Figures read from metrics: names, sums, restarts, quantiles."""

import math

import pytest

from actors.base.telemetry import Telemetry
from cluster.view.figures import Figures, figures_of, grown, quantile_s


def test_figures_are_those_of_the_metrics() -> None:
    telemetry = Telemetry("scheduler", "tiny-0")
    telemetry.gauge("vllm:num_requests_running", "In the batch.").set(3)
    telemetry.counter("vllm:generation_tokens_total", "Tokens.").inc(120)
    held = telemetry.gauge("russet_kv_bytes", "KV.", ("tier", "state"))
    for tier, live, cached in (("f16", 400, 100), ("q8", 0, 50)):
        held.labels(tier=tier, state="live").set(live)
        held.labels(tier=tier, state="cached").set(cached)
    first = telemetry.histogram("vllm:time_to_first_token_seconds", "TTFT.", buckets=(0.1, 1.0))
    for seconds in (0.05, 0.5, 5):
        first.observe(seconds)
    telemetry.counter("russet_something_else_total", "Of no interest.", ("running",)).labels(running="9").inc()
    figures = figures_of(telemetry.render())
    assert (figures.running, figures.generated_tokens) == (3, 120)
    assert (figures.kv_live_bytes, figures.kv_cached_bytes) == (400, 150)
    assert figures.first_tokens == {0.1: 1, 1.0: 2, math.inf: 3}


def test_clients_errors_are_told_from_ours() -> None:
    telemetry = Telemetry("gateway")
    answered = telemetry.counter("russet_gateway_requests_total", "Answered.", ("endpoint", "status"))
    for endpoint, status, count in (
        ("/v1/chat/completions", "200", 5),
        ("/v1/chat/completions", "404", 2),
        ("/v1/messages", "503", 1),
        ("/metrics", "200", 100),
    ):
        answered.labels(endpoint=endpoint, status=status).inc(count)
    figures = figures_of(telemetry.render())
    assert (figures.requests, figures.refused, figures.failed) == (8, 2, 1)


def test_no_metrics_are_no_figures() -> None:
    assert figures_of(b"") == Figures()


def test_a_restarted_process_counts_from_nothing() -> None:
    assert grown(12, 5) == 7
    assert grown(3, 500) == 3


@pytest.mark.parametrize(("share", "seconds"), [(0.25, 0.05), (0.5, 0.1), (0.75, 0.55), (1.0, 1.0)])
def test_quantiles_are_prometheus_s(share: float, seconds: float) -> None:
    before = {0.1: 7.0, 1.0: 7.0, math.inf: 7.0}
    now = {0.1: 9.0, 1.0: 11.0, math.inf: 11.0}
    assert quantile_s(now, before, share) == pytest.approx(seconds)


def test_quantiles_know_their_ends() -> None:
    assert quantile_s({}, {}, 0.5) is None
    assert quantile_s({0.1: 7.0, math.inf: 7.0}, {0.1: 7.0, math.inf: 7.0}, 0.5) is None
    assert quantile_s({0.1: 0.0, math.inf: 4.0}, {}, 0.5) == 0.1, "over the last bound: that bound"
