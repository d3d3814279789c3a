"""Heartbeats: at once on change, then regularly, whatever the router does."""

import asyncio

from actors.base.errors import Unavailable
from actors.scheduler.heartbeat import Announcer
from protos.gen import router_pb2


class Router:
    """A stub of a router that answers as told."""

    def __init__(self, replies):
        self.replies = list(replies)
        self.seen = asyncio.Queue()

    async def Heartbeat(self, request, timeout):
        reply = self.replies.pop(0) if self.replies else True
        self.seen.put_nowait(request)
        if isinstance(reply, Exception):
            raise reply
        return router_pb2.HeartbeatReply(known=reply)


def announcer(router, interval_s):
    return Announcer(router, lambda: router_pb2.HeartbeatRequest(replica_id="r"), interval_s)


async def test_a_router_that_is_away_is_tried_again():
    router = Router([Unavailable("away"), Unavailable("away"), True])
    it = announcer(router, 0.01)
    it.start()
    beats = [await asyncio.wait_for(router.seen.get(), 5) for _ in range(4)]
    assert [beat.sequence for beat in beats] == [1, 2, 3, 4]
    await it.stop()


async def test_an_error_nobody_foresaw_ends_one_heartbeat_not_all(caplog):
    router = Router([ZeroDivisionError("a defect"), True])
    it = announcer(router, 0.01)
    it.start()
    beats = [await asyncio.wait_for(router.seen.get(), 5) for _ in range(3)]
    assert [beat.sequence for beat in beats] == [1, 2, 3]
    assert "a defect" in caplog.text, "it is not swallowed"
    await it.stop()


async def test_changes_and_new_routers_are_told_at_once():
    router = Router([False, True, True])
    it = announcer(router, 60)
    it.start()
    for _ in range(2):
        await asyncio.wait_for(router.seen.get(), 5)
    it.changed()
    assert (await asyncio.wait_for(router.seen.get(), 5)).sequence == 3
    await it.stop()
    goodbye = await asyncio.wait_for(router.seen.get(), 5)
    assert goodbye.leaving
    assert goodbye.sequence == 4
    assert router.seen.empty()


async def test_a_router_that_never_knows_us_is_not_flooded():
    router = Router([False] * 50)
    it = announcer(router, 60)
    it.start()
    for _ in range(2):
        await asyncio.wait_for(router.seen.get(), 5)
    for _ in range(20):
        await asyncio.sleep(0)
    assert router.seen.empty()
    await it.stop()


async def test_nothing_is_announced_before_the_model_is_known():
    router, known = Router([]), []
    it = Announcer(router, lambda: router_pb2.HeartbeatRequest(replica_id="r") if known else None, 60)
    it.start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert router.seen.empty()
    known.append(True)
    it.changed()
    assert (await asyncio.wait_for(router.seen.get(), 5)).sequence == 1
    await it.stop()
