"""`russet kv`: what the metrics of a fleet say of its KV memory."""

import io
import math

import pytest
from rich.console import Console
from typer.testing import CliRunner

from actors.base.telemetry import Telemetry
from cluster import cli, cli_kv
from cluster.identity import merge
from cluster.kv import Pool, applied, pools
from cluster.kv_picture import BAR, bar, picture


def scheduler() -> Telemetry:
    """A scheduler's metrics as it registers them."""
    telemetry = Telemetry("scheduler", "tiny-0")
    held = telemetry.gauge("russet_kv_bytes", "Bytes of KV.", ("tier", "state"))
    for tier, live, cached in (("f16", 400e6, 100e6), ("q8", 0, 50e6)):
        held.labels(tier=tier, state="live").set(live)
        held.labels(tier=tier, state="cached").set(cached)
    telemetry.gauge("russet_kv_budget_bytes", "Most bytes.").set(1e9)
    telemetry.gauge("russet_kv_kept_tokens", "On disk.").set(4096)
    telemetry.counter("vllm:prefix_cache_queries_total", "Asked.").inc(2000)
    telemetry.counter("vllm:prefix_cache_hits_total", "Found.").inc(1500)
    telemetry.counter("russet_prefix_cache_evictions_total", "Evicted.").inc(7)
    telemetry.counter("russet_kv_demoted_tokens_total", "Demoted.", ("tier",)).labels(tier="q8").inc(640)
    telemetry.counter("vllm:num_preemptions_total", "Preempted.").inc(3)
    preempted = telemetry.counter("russet_kv_preemptions_total", "By kind.", ("kind",))
    preempted.labels(kind="swap").inc(2)
    preempted.labels(kind="recompute").inc(1)
    telemetry.counter("russet_kv_restored_tokens_total", "Restored.").inc(2048)
    seconds = telemetry.histogram("russet_kv_restore_seconds", "Times.", buckets=(0.01, 0.1, 1.0))
    for each in (0.005, 0.05, 0.05, 0.5):
        seconds.observe(each)
    telemetry.counter("russet_kv_pressure_total", "Policies.", ("policy",)).labels(policy="evict").inc(5)
    return telemetry


def metrics() -> str:
    """What the gateway answers for two replicas, one of which tells nothing of KV yet, and a router."""
    other = Telemetry("scheduler", "tiny-1")
    other.gauge("vllm:num_requests_running", "Running.").set(1)
    texts = {
        "scheduler-tiny-0": scheduler().render(),
        "scheduler-tiny-1": other.render(),
        "router": Telemetry("router").render(),
        "worker-tiny-0": None,
    }
    return merge(texts).decode()


def test_every_replica_is_read_by_its_name():
    first, second = pools(metrics())
    assert (first.replica, second.replica) == ("tiny-0", "tiny-1")
    assert (first.budget_bytes, first.used_bytes) == (1e9, 550e6)
    assert first.live_bytes == {"f16": 400e6, "q8": 0}
    assert first.cached_bytes == {"f16": 100e6, "q8": 50e6}
    assert (first.hit_ratio, first.evicted_pages, first.kept_tokens) == (0.75, 7, 4096)
    assert first.demoted_tokens == {"q8": 640}
    assert (first.preemptions, first.preempted) == (3, {"swap": 2, "recompute": 1})
    assert first.restored_tokens == 2048
    assert (first.restores.count, first.restores.mean_s) == (4, pytest.approx(0.15125))
    assert (first.restores.bound_s(0.25), first.restores.bound_s(0.75), first.restores.bound_s(0.95)) == (0.01, 0.1, 1)
    assert first.pressure == {"evict": 5}
    assert second == Pool("tiny-1")
    assert second.hit_ratio is None


def test_times_past_the_last_bound_have_none():
    telemetry = Telemetry("scheduler")
    telemetry.histogram("russet_kv_restore_seconds", "Times.", buckets=(0.01,)).observe(5)
    (pool,) = pools(merge({"scheduler-a": telemetry.render()}).decode())
    assert pool.restores.bound_s(0.95) == math.inf


def test_what_shortage_calls_for_now_is_what_grew():
    before = Pool("a", pressure={"evict": 5, "spill": 2})
    after = Pool("a", pressure={"evict": 6, "quantize": 1, "spill": 2})
    assert applied(after, before) == ["evict", "quantize"]
    assert applied(after, None) == ["evict", "quantize", "spill"]


@pytest.mark.parametrize(
    ("live", "cached", "drawn"),
    [
        (0, 0, (0, 0)),
        (500, 250, (BAR // 2, BAR // 4)),
        (1, 1, (1, 1)),
        (1000, 1, (BAR, 0)),
        (1500, 500, (BAR, 0)),
    ],
)
def test_bars_are_as_long_as_the_budget(live, cached, drawn):
    text = bar(live, cached, 1000).plain
    assert (text.count("█"), text.count("▒"), len(text)) == (*drawn, BAR)


def test_a_bar_without_a_budget_is_empty():
    assert bar(0, 0, 0).plain == "·" * BAR


def shown(page: io.StringIO) -> str:
    return " ".join(page.getvalue().split())


def test_the_picture_names_the_figures():
    page = io.StringIO()
    now = pools(metrics())
    before = [Pool("tiny-0", pressure={"evict": 4}), Pool("tiny-1")]
    Console(width=80, file=page).print(picture(now, before))
    text = shown(page)
    for part in (
        "tiny-0 550.0 MB of 1.00 GB", "400.0 MB 100.0 MB", "75.0% of 2,000 prompt tokens", "7 pages", "q8 640 tokens",
        "3 rows (swap 2, recompute 1)", "4,096 tokens", "2,048 tokens of 4 prompts: mean 151 ms, 95 % within 1.0 s",
        "evict 5 now: evict", "tiny-1 no budget told", "none asked for yet",
    ):  # fmt: skip
        assert part in text, part
    assert "…" not in page.getvalue()


def test_the_command_prints_it_once_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(cli_kv.Client, "metrics", lambda client: metrics())
    ran = CliRunner().invoke(cli.app, ["kv", "--url", "http://127.0.0.1:1"])
    assert ran.exit_code == 0
    assert ran.output.count("Found in cache") == 2


def test_without_replicas_it_says_so():
    page = io.StringIO()
    Console(width=80, file=page).print(picture(pools(merge({"router": b""}).decode())))
    assert "No replica" in page.getvalue()
