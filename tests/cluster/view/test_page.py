"""The status page in a real browser, and who may read what it shows."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from cluster.gateway import api_keys
from cluster.gateway.status import FILES
from cluster.local import LocalCluster
from tests.cluster.gateway.world import World
from tests.cluster.view.browser import CHROMIUM, Page, browser

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; tests/install-tools installs Debian's")
ASKED = {"prompt": "Once upon a time there was a fox. " * 8, "max_tokens": 24, "ignore_eos": True}
SHOWN = "!document.getElementById('view').hidden && document.querySelectorAll('#replicas tbody tr').length"
TEXT = "document.body.innerText"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def page() -> AsyncIterator[Page]:
    async with browser() as page:
        yield page


@pytest.mark.asyncio(loop_scope="module")
async def test_status_tells_what_a_cluster_does(local: LocalCluster) -> None:
    async with httpx.AsyncClient(base_url=local.http, timeout=60) as http:
        for _ in range(3):
            assert (await http.post("/v1/completions", json=ASKED)).status_code == 200
        assert (await http.post("/v1/completions", json=ASKED | {"model": "nonesuch"})).status_code == 404
        watch = local.service("gateway-0").service._status.watch
        watch.newest = type(watch.newest)(0, {})  # a look of its own, however fresh the last one is
        told = (await http.get("/status.json")).json()
    assert (told["state"], told["degraded"]) == ("ok", [])
    (replica,) = told["replicas"]
    assert (replica["id"], replica["model"]) == ("smollm2-135m-instruct-0", "smollm2-135m-instruct")
    assert (replica["state"], replica["running"], replica["running_limit"]) == ("ready", 0, 64)
    assert replica["kv"]["budget_bytes"] > replica["kv"]["cached_bytes"] > 0
    assert replica["prefix_hit_ratio"] > 0, "the same was asked before"
    roles = [each["role"] for each in told["services"]]
    assert roles == ["gateway", "router", "scheduler", "worker", "memory", "learner"]
    assert [node["away"] for node in told["nodes"]] == [[]]


@needs_browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_shows_it_and_breaks_no_rule_of_its_policy(local: LocalCluster, page: Page) -> None:
    page.complaints.clear()
    await page.open(f"{local.http}/status")
    await page.until(SHOWN)
    text = await page.look(TEXT)
    for word in ("Everything answers", "smollm2-135m-instruct-0", "ready", "0 / 64", "learner", "Tokens a second"):
        assert word in text, word
    # A service that was just started is known a look later.
    await page.until("document.querySelectorAll('#services tbody tr').length === 6")
    assert await page.look("document.querySelector('.bar .free') !== null")
    assert page.complaints == []
    grounds = []
    for dark in (False, True):
        await page.picture(1200, 900, dark=dark)
        grounds.append(await page.look("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1], "light and dark"
    for width in (390, 1200):
        await page.picture(width, 900)
        assert await page.look("document.documentElement.scrollWidth") <= width, "nothing sticks out"


@needs_browser
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_away_is_on_the_page(local: LocalCluster, page: Page) -> None:
    learner = local.service("learner")
    await page.open(f"{local.http}/status")
    await page.until(SHOWN)
    await local.directory.publish("learner", ["unix:/nonexistent/learner.sock"])
    await page.until("document.querySelectorAll('#degraded li').length")
    assert "nothing is learned" in await page.look(TEXT)
    assert await page.look("document.title") == "Russet: degraded"
    await local.directory.publish("learner", learner.addresses)
    await page.until("!document.querySelectorAll('#degraded li').length")


async def keyed(world: World, home: Path) -> tuple[str, dict[str, str]]:
    """A gateway with two keys; its URL, and the keys by name."""
    await world.replica()
    path = home / "api-keys"
    keys = {name: api_keys.create(path, name, role) for name, role in (("ann", "user"), ("root", "admin"))}
    gateway = await world.start(api_keys_file=path)
    return gateway.addresses.http, keys


async def test_where_there_are_keys_only_an_administrator_s_opens_it(world: World, home: Path) -> None:
    url, keys = await keyed(world, home)
    async with httpx.AsyncClient(base_url=url) as http:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": f"Bearer {keys['ann']}"}, 403),
            ({"Authorization": f"Bearer {keys['root']}"}, 200),
        ):
            assert (await http.get("/status.json", headers=headers)).status_code == status
        assert (await http.get("/status/page.py")).status_code == 404
        for path in ("/status", *(f"/status/{name}" for name in FILES)):
            reply = await http.get(path)
            assert reply.status_code == 200
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert reply.headers["x-content-type-options"] == "nosniff"


@needs_browser
async def test_the_page_asks_for_the_key_and_keeps_it_nowhere(world: World, home: Path) -> None:
    url, keys = await keyed(world, home)

    def type_in(key: str) -> str:
        return f"document.getElementById('key').value = '{key}'; document.querySelector('#asking button').click()"

    async with browser() as page:
        await page.open(f"{url}/status")
        await page.until("!document.getElementById('asking').hidden")
        assert await page.look("document.getElementById('view').hidden")
        await page.look(type_in(keys["ann"]))
        await page.until("document.getElementById('refusal').textContent.includes('administrators')")
        await page.look(type_in(keys["root"]))
        await page.until("!document.getElementById('view').hidden")
        assert await page.look("document.getElementById('asking').hidden")
        assert await page.look("[localStorage.length, sessionStorage.length, document.cookie].join()") == "0,0,"
        assert keys["root"] not in await page.look("document.documentElement.outerHTML")


async def test_an_open_gateway_needs_no_key(world: World) -> None:
    await world.replica()
    gateway = await world.start()
    async with httpx.AsyncClient(base_url=gateway.addresses.http) as http:
        reply = await http.get("/status.json")
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert [row["id"] for row in reply.json()["replicas"]] == ["tiny-0"]
