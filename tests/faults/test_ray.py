"""The system as `russet up` starts it, with its processes killed under it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from actors.base.channel import connect
from actors.base.errors import Unreachable
from actors.worker.models.catalogue import locate
from cluster.certificates import NodeCertificate, certificate_of, leaf_in
from cluster.config import Config
from cluster.home import Home
from cluster.lifecycle import ClusterState, read_state
from cluster.local import LocalCluster
from cluster.ray_process import free_port
from protos.gen.telemetry_pb2 import IdentifyRequest
from protos.gen.telemetry_pb2_grpc import TelemetryStub
from tests.conftest import russet, settings

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
Cluster = tuple[Config, ClusterState]
ROLES = ["gateway", "router", "controller", "scheduler", "worker", "memory", "learner"]
JOIN = """
import sys
from pathlib import Path
from cluster.certificates import NodeCertificate
from cluster.home import Home
from cluster.lifecycle import connected, ray_environment

address, home, own = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
with connected(address, ray_environment(Home(home))):
    from cluster.ray_certificates import HeadSigner

    NodeCertificate(own, "worker", 1).ensure(HeadSigner(home))
"""
TALE = "Once upon a time there was a fox who lived at the edge of a great forest, and"


def actors(config: Config) -> list[dict[str, Any]]:
    return json.loads(russet("status", "--json", "--set", f"home={config.home}").stdout)["actors"]


def pid_of(config: Config, role: str) -> int:
    return next(actor["pid"] for actor in actors(config) if actor["role"] == role)


def body(prompt: str, tokens: int) -> dict[str, Any]:
    greedy = {"temperature": 0, "ignore_eos": True, "stream": True}
    return {"model": "auto", "prompt": prompt, "max_tokens": tokens, **greedy}


def whole(found: list[dict[str, Any]]) -> bool:
    return [actor["role"] for actor in found] == ROLES and {actor["state"] for actor in found} == {"serving"}


async def stream(url: str, request: dict[str, Any], at: int = -1, then: Any = None) -> str:
    """The text of a streamed completion; calls `then` when `at` chunks have come."""
    text, chunks = "", 0
    async with (
        httpx.AsyncClient(timeout=120) as http,
        http.stream("POST", f"{url}/v1/completions", json=request) as response,
    ):
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            text += "".join(choice["text"] for choice in event["choices"])
            chunks += 1
            if chunks == at:
                then()
    return text


def test_every_actor_is_there(on_ray: Cluster) -> None:
    config, state = on_ray
    found = actors(config)
    assert [actor["role"] for actor in found] == ROLES
    assert {actor["state"] for actor in found} == {"serving"}
    assert len({actor["pid"] for actor in found}) == len(ROLES)
    # Nothing but the gateway's own ports may be reachable from other machines.
    assert all("127.0.0.1" in actor["address"] for actor in found)
    assert httpx.get(state.dashboard).status_code == 200
    assert httpx.get(f"{state.dashboard}/api/version").status_code == 401


def test_names_show_in_ray(on_ray: Cluster) -> None:
    config, state = on_ray
    token = (config.home / "ray.token").read_text()
    listed = httpx.get(f"{state.dashboard}/api/v0/actors", headers={"Authorization": f"Bearer {token}"}).text
    for name in ("worker-smollm2-135m-instruct-0", "SERVE_REPLICA::router#router", "SERVE_REPLICA::gateway#gateway"):
        assert name in listed


async def test_ray_s_own_metrics_have_ours(on_ray: Cluster) -> None:
    config, state = on_ray
    (found,) = json.loads((Home(config.home).run / "ray" / "prom_metrics_service_discovery.json").read_text())
    async with httpx.AsyncClient(timeout=60) as http:
        asked = {"prompt": "Once", "max_tokens": 8, "ignore_eos": True}
        assert (await http.post(f"{state.http}/v1/completions", json=asked)).status_code == 200
        wanted = {
            "ray_russet_generated_tokens_total": "scheduler",
            "ray_russet_worker_rows": "worker",
            "ray_russet_requests_total": "gateway",
            "ray_russet_decisions_total": "router",
        }
        missing = set(wanted)
        async with asyncio.timeout(90):
            while missing:
                texts = [(await http.get(f"http://{target}/metrics")).text for target in found["targets"]]
                missing = {
                    name
                    for name, service in wanted.items()
                    if not re.search(rf'^{name}{{[^}}]*service="{service}"[^}}]*}} ', "\n".join(texts), re.MULTILINE)
                }
                await asyncio.sleep(0.5)


async def test_the_same_text_as_in_one_process(on_ray: Cluster, home: Path) -> None:
    _, state = on_ray
    async with LocalCluster(settings(home)) as local:
        expected = await stream(local.http, body(TALE, 48))
    assert await stream(state.http, body(TALE, 48)) == expected


@pytest.mark.parametrize("role", ["worker", "scheduler", "router", "memory", "learner"])
async def test_a_killed_process_costs_no_stream(on_ray: Cluster, role: str) -> None:
    config, state = on_ray
    expected = await stream(state.http, body(TALE, 160))
    victim = await asyncio.to_thread(pid_of, config, role)
    texts = await asyncio.gather(
        stream(state.http, body(TALE, 160), at=20, then=lambda: os.kill(victim, signal.SIGKILL)),
        *(stream(state.http, body(TALE, 160)) for _ in range(3)),
    )
    assert texts == [expected] * 4
    async with asyncio.timeout(60):
        while not whole(again := await asyncio.to_thread(actors, config)) or victim in {a["pid"] for a in again}:
            pass
    assert await stream(state.http, body(TALE, 160)) == expected


async def test_a_session_outlives_the_processes_that_know_of_it(on_ray: Cluster) -> None:
    """Memory, router, gateway and worker are killed together: text, place and KV are still known afterwards."""
    config, state = on_ray

    async def turn(question: str) -> dict[str, Any]:
        request = {
            "model": "auto", "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0,
            "russet": {"session_id": "kept"},
        }  # fmt: skip
        async with httpx.AsyncClient(timeout=120) as http:
            reply = await http.post(f"{state.http}/v1/chat/completions", json=request)
        assert reply.status_code == 200, reply.text
        return reply.json()

    before = await asyncio.to_thread(kept_tokens, state.http)
    first = await turn(f"{TALE} so on. " * 12 + "Who lived there?")
    async with httpx.AsyncClient(timeout=60) as http:
        # A rating comes after the records of its answer.
        await http.post(f"{state.http}/v1/feedback", json={"response_id": first["id"], "rating": 1})
    async with asyncio.timeout(60):
        while await asyncio.to_thread(kept_tokens, state.http) < before + first["usage"]["total_tokens"] - 64:
            pass
    victims = {await asyncio.to_thread(pid_of, config, role) for role in ("memory", "router", "gateway", "worker")}
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not whole(again := await asyncio.to_thread(actors, config)) or victims & {a["pid"] for a in again}:
            pass
    second = await turn("And where?")
    assert second["russet"]["session"]["turns"] == 2
    assert second["russet"]["kv"]["restored_tokens"] > first["usage"]["prompt_tokens"]


def kept_tokens(url: str) -> float:
    """Tokens whose KV lies on disk."""
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("russet_kv_kept_tokens{"))


async def test_actors_take_up_new_certificates_and_refuse_plain_text(on_ray: Cluster, tmp_path: Path) -> None:
    config, state = on_ray
    certificate = certificate_of(config, "127.0.0.1")
    assert certificate is not None
    # On the machine itself actors talk over unix sockets; what other nodes would call is asked here.
    addresses = [actor["address"] for actor in actors(config)]
    assert all(address.startswith("tcp:127.0.0.1:") for address in addresses)
    for address in addresses:
        channel = connect(address)
        with pytest.raises(Unreachable):
            await TelemetryStub(channel).Identify(IdentifyRequest(), timeout=2)
        await channel.close()

    async def answering() -> set[str]:
        found = set()
        for address in addresses:
            channel = connect(address, security=certificate.security)
            found.add((await TelemetryStub(channel).Identify(IdentifyRequest(), timeout=5)).role)
            await channel.close()
        return found

    assert await answering() == set(ROLES)
    before = leaf_in(certificate.security.identity).serial_number
    file = tmp_path / "russet.toml"
    file.write_text(f'home = "{config.home}"\n')
    rotating: list[asyncio.Task[subprocess.CompletedProcess[str]]] = []

    def rotate() -> None:
        command = "certs", "rotate", "--ca", "--config", str(file)
        rotating.append(asyncio.create_task(asyncio.to_thread(russet, *command)))

    assert await stream(state.http, body(TALE, 200), at=5, then=rotate)
    done = await rotating[0]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "127.0.0.1" in done.stdout
    assert leaf_in(certificate.security.identity).serial_number != before
    assert await answering() == set(ROLES)
    assert "No longer trusted: 0001" in russet("certs", "drop", "--config", str(file)).stdout
    assert await answering() == set(ROLES)

    # A node that does not hold the authority: its key stays in its own home, the head signs.
    joined = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", JOIN, state.ray_address, config.home, tmp_path], timeout=120
    )
    assert joined.returncode == 0
    certificate = NodeCertificate(tmp_path, "worker", 1)
    assert not certificate.authority.exists
    assert await answering() == set(ROLES)


def test_a_second_up_says_that_it_runs(on_ray: Cluster) -> None:
    config, _ = on_ray
    refused = russet("up", "--set", f"home={config.home}")
    assert refused.returncode == 1
    assert "already runs" in refused.stderr


def test_no_process_outlives_down(tmp_path_factory: pytest.TempPathFactory, on_ray: Cluster) -> None:
    """Checked on the session's own cluster by its fixture's end; here: what a state file of a dead Ray does."""
    config, state = on_ray
    stale = Home(tmp_path_factory.mktemp("home")).create()
    stale.state_file.write_text(json.dumps({**state.__dict__, "ray_pid": 1}))
    assert read_state(stale) is None
    assert psutil.pid_exists(read_state(Home(config.home)).ray_pid)  # type: ignore[union-attr]


def test_a_model_that_cannot_be_loaded_ends_up_with_its_reason(home: Path, tmp_path: Path) -> None:
    _, packaged = locate("smollm2-135m-instruct")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(packaged.read_bytes()[:50_000_000])
    ports = {"gateway.port": free_port(), "gateway.grpc_port": free_port(), "ray.port": 0, "ray.dashboard_port": 0}
    chosen = {"home": home, **ports, "ray.metrics_port": 0, "models.0.model": damaged}
    ended = russet("up", *(part for name, value in chosen.items() for part in ("--set", f"{name}={value}")))
    assert ended.returncode == 1
    assert "truncated" in ended.stderr.replace("\n", " ")
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(home) in " ".join(p.info["cmdline"] or [])]
