"""Dashboards and alerts hold against what a cluster really tells: every name, every label, every query."""

import asyncio
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from cluster.local import LocalCluster
from cluster.ray_process import free_port
from deploy.grafana.make import DIRECTORY, written
from deploy.grafana.panels import DASHBOARDS, Dashboard
from tests.conftest import settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="no prometheus here; tests/install-tools installs Debian's"
)
NAME = re.compile(r"\b((?:russet_|vllm:)\w+)")
SELECTOR = re.compile(r"\b((?:russet_|vllm:)\w+)({[^}]*})?")
INTERVAL = "1m"
"""What Grafana would put for $__rate_interval."""
SCRAPES = 4
CHAT = {"messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 24, "temperature": 0}
pytestmark = pytest.mark.asyncio(loop_scope="module")


def queries() -> list[Any]:
    """Every target of every dashboard's file: expression, legend."""
    found = []
    for path in sorted(DIRECTORY.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                name = f"{path.stem}-{panel['title']}-{target['refId']}".replace(" ", "_")
                found.append(pytest.param(target["expr"], target["legendFormat"], id=name))
    return found


def alerts() -> list[dict[str, Any]]:
    return yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]


class Scraped:
    """A cluster that served requests, its metrics, and a Prometheus that scraped them."""

    def __init__(self, text: str, url: str) -> None:
        self.text = text
        self.url = url

    def samples_of(self, name: str) -> bool:
        return bool(re.search(rf"^{re.escape(name)}[ {{]", self.text, re.MULTILINE))

    def declared(self, name: str) -> bool:
        """A family of labelled samples may have none yet."""
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        return bool(re.search(rf"^# TYPE (?:{re.escape(name)}|{re.escape(base)}) ", self.text, re.MULTILINE))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served() -> AsyncIterator[LocalCluster]:
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    async with LocalCluster(settings(path, gateway__quality_share=1)) as cluster:
        yield cluster
    shutil.rmtree(path, ignore_errors=True)


async def ask(cluster: LocalCluster, count: int) -> None:
    async with httpx.AsyncClient(base_url=cluster.http, timeout=60) as http:
        for number in range(count):
            body = CHAT | {"russet": {"session_id": f"s{number % 2}"}}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        assert (await http.post("/v1/chat/completions", json=CHAT | {"model": "nonesuch"})).status_code == 404


def configuration(cluster: LocalCluster) -> dict[str, Any]:
    """The file that ships, for this cluster, and faster."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ALERTS)]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [cluster.http.removeprefix("http://")]}]
    return config


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scraped(served: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scraped]:
    await ask(served, 3)
    async with httpx.AsyncClient() as http:
        if PROMETHEUS is None:
            yield Scraped((await http.get(f"{served.http}/metrics")).text, "")
            return
        home, port = tmp_path_factory.mktemp("prometheus"), free_port()
        config = home / "prometheus.yml"
        config.write_text(yaml.safe_dump(configuration(served)))
        flags = [f"--config.file={config}", f"--storage.tsdb.path={home}", f"--web.listen-address=127.0.0.1:{port}"]
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS, *flags, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            asked = False
            async with asyncio.timeout(60):
                while (scrapes := await count_of_scrapes(http, url)) < SCRAPES:
                    if scrapes and not asked:
                        asked = True
                        await ask(served, 4)
                    await asyncio.sleep(0.2)
            yield Scraped((await http.get(f"{served.http}/metrics")).text, url)
        finally:
            process.terminate()
            await process.wait()


async def count_of_scrapes(http: httpx.AsyncClient, url: str) -> int:
    try:
        result = await result_of(http, url, "sum(count_over_time(up[5m]))")
    except httpx.TransportError:
        return 0
    return int(result[0]["value"][1]) if result else 0


async def result_of(http: httpx.AsyncClient, url: str, expression: str) -> list[dict[str, Any]]:
    reply = await http.get(f"{url}/api/v1/query", params={"query": expression})
    if reply.status_code == 503:
        return []  # it is starting
    told = reply.json()
    assert told["status"] == "success", told
    return told["data"]["result"]


@pytest.mark.parametrize("described", DASHBOARDS, ids=lambda each: each.name)
async def test_the_files_are_what_is_described(described: Dashboard) -> None:
    path = DIRECTORY / f"{described.name}.json"
    assert path.read_text() == written(described), "`python -m deploy.grafana.make` writes it anew"
    panels = json.loads(path.read_text())["panels"]
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)), "no panel covers another"
    assert max(x for x, _ in taken) < 24


@pytest.mark.parametrize(("expression", "legend"), queries())
async def test_every_metric_asked_for_is_one_that_there_is(scraped: Scraped, expression: str, legend: str) -> None:
    names = NAME.findall(expression)
    assert names
    for name in names:
        assert scraped.declared(name), f"{name} is not among the metrics"


@needs_prometheus
@pytest.mark.parametrize(("expression", "legend"), queries())
async def test_every_panel_shows_something(scraped: Scraped, expression: str, legend: str) -> None:
    asked = expression.replace("$__rate_interval", INTERVAL)
    async with httpx.AsyncClient() as http:
        result = await result_of(http, scraped.url, asked)
    if all(scraped.samples_of(name) for name in NAME.findall(expression)):
        assert result, "nothing to draw"
    for label in re.findall(r"{{(\w+)}}", legend):
        assert not result or any(label in series["metric"] for series in result), f"no series has the label {label}"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
async def test_alerts_ask_for_metrics_that_there_are(scraped: Scraped, rule: dict[str, Any]) -> None:
    for name in NAME.findall(rule["expr"]):
        assert scraped.declared(name), f"{name} is not among the metrics"


@needs_prometheus
async def test_what_alerts_select_is_there(scraped: Scraped) -> None:
    async with httpx.AsyncClient() as http:
        for rule in alerts():
            for name, labels in SELECTOR.findall(rule["expr"]):
                if scraped.samples_of(name) and "5.." not in labels:  # nothing fails here
                    assert await result_of(http, scraped.url, name + labels), f"{rule['alert']}: {name}{labels}"


@needs_prometheus
async def test_alerts_are_evaluated_and_silent_while_all_is_well(scraped: Scraped) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(30):
        while True:
            (group,) = (await http.get(f"{scraped.url}/api/v1/rules")).json()["data"]["groups"]
            if all(rule["health"] == "ok" for rule in group["rules"]):
                break
            assert not any(rule["health"] == "err" for rule in group["rules"]), group
            await asyncio.sleep(0.2)
    assert len(group["rules"]) == len(alerts())
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []


@needs_prometheus
async def test_alerts_fire_on_what_they_are_for(tmp_path: Path) -> None:
    series = {
        "RussetServiceAway": ('russet_up{service="memory"}', "0x20", "3m"),
        "RussetNoReplica": ('russet_router_replicas{available="yes"}', "0x20", "2m"),
        "RussetQueueLong": ('vllm:num_requests_waiting{service="scheduler-x-0"}', "256x20", "3m"),
        "RussetWorkerLost": ('russet_scheduler_worker_losses_total{service="scheduler-x-0"}', "0+1x20", "10m"),
        "RussetNodeShortOfMemory": ('russet_node_memory_bytes{node="n",state="available"}', "500000000x20", "6m"),
        "RussetGone": ('up{job="russet"}', "0x20", "2m"),
    }
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": metric, "values": values}],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                    "eval_time": when,
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        }
        for alert, (metric, values, when) in series.items()
    ]
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    assert PROMTOOL is not None
    command = [PROMTOOL, "test", "rules", str(path)]
    checked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_what_provisions_them_names_what_there_is() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/russet.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/russet.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert {path.stem for path in DIRECTORY.glob("*.json")} == {each.name for each in DASHBOARDS}
