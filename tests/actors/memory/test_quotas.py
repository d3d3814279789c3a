"""What keys used is counted once, and outlives memory and its hot tier."""

import asyncio

import pytest

from actors.base.errors import InvalidArgument
from protos.gen import quotas_pb2

LIMITS = quotas_pb2.Limits(tokens_per_day=100, concurrent=2)


def take(request_id: str, tenant: str = "ann") -> quotas_pb2.TakeRequest:
    return quotas_pb2.TakeRequest(tenant=tenant, request_id=request_id, limits=LIMITS)


def settle(request_id: str, tokens: int) -> quotas_pb2.SettleRequest:
    return quotas_pb2.SettleRequest(tenant="ann", request_id=request_id, limits=LIMITS, tokens=tokens)


async def test_counts_outlive_memory(opening):
    async with opening() as memory:
        quotas = memory.service.quotas
        replies = await asyncio.gather(*(quotas.Take(take(str(index)), None) for index in range(5)))
        assert [reply.refused for reply in replies] == ["", "", "concurrent", "concurrent", "concurrent"]
        await quotas.Settle(settle("0", 100), None)
    async with opening() as memory:
        quotas = memory.service.quotas
        assert (await quotas.Take(take("6"), None)).refused == "day"
        assert (await quotas.Take(take("6", tenant="bob"), None)).refused == ""


async def test_counting_goes_on_without_the_hot_tier(opening):
    async with opening() as memory:
        quotas = memory.service.quotas
        assert (await quotas.Take(take("a"), None)).refused == ""
        memory.valkey.kill()
        assert (await quotas.Take(take("b"), None)).refused == ""
        assert (await quotas.Take(take("c"), None)).refused == "concurrent"
        assert (await quotas.Take(take("c", tenant="bob"), None)).refused == ""


@pytest.mark.parametrize(
    "request_",
    [
        quotas_pb2.TakeRequest(request_id="a"),
        quotas_pb2.TakeRequest(tenant="a" * 300, request_id="a"),
        quotas_pb2.TakeRequest(tenant="a", request_id="a", limits=quotas_pb2.Limits(concurrent=1 << 63)),
    ],
)
async def test_sizes_are_bounded(opening, request_):
    async with opening() as memory:
        with pytest.raises(InvalidArgument, match="accepted: "):
            await memory.service.quotas.Take(request_, None)
