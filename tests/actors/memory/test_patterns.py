"""Patterns: what is put is read after a restart, byte for byte; what is malformed is refused."""

import pytest

from actors.base.errors import InvalidArgument, TooLarge
from protos.gen.memory_pb2 import DeletePatternsRequest, Pattern, PutPatternsRequest, ReadPatternsRequest


def pattern(text: str, tenant: str = "t", router: str = "shop", **more) -> Pattern:
    return Pattern(**{"tenant": tenant, "router": router, "text": text, "label": "fruit"} | more)


async def read(memory) -> list[tuple[str, str, str, str, bytes]]:
    found = [each async for page in memory.stub.ReadPatterns(ReadPatternsRequest()) for each in page.patterns]
    return sorted((each.tenant, each.router, each.text, each.label, each.features) for each in found)


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_patterns_survive_a_restart(opening, transport):
    many = [pattern(f"text {at:04}", features=bytes([at % 256]) * 10, embedding=[1.0] * 384) for at in range(700)]
    async with opening(transport) as memory:
        await memory.stub.PutPatterns(PutPatternsRequest(patterns=many))
        await memory.stub.PutPatterns(PutPatternsRequest(patterns=[pattern("text 0000", label=""), pattern("a", "u")]))
        gone = [pattern(f"text {at:04}") for at in range(1, 698)]
        await memory.stub.DeletePatterns(DeletePatternsRequest(patterns=[*gone, pattern("never there")]))
    async with opening(transport) as memory:
        assert await read(memory) == [
            ("t", "shop", "text 0000", "", b""),
            ("t", "shop", "text 0698", "fruit", bytes([698 % 256]) * 10),
            ("t", "shop", "text 0699", "fruit", bytes([699 % 256]) * 10),
            ("u", "shop", "a", "fruit", b""),
        ]


@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        (pattern("x", embedding=[1.0]), InvalidArgument, "width 1"),
        (pattern("x", router=""), InvalidArgument, "router of 0 characters"),
        (pattern("x" * 70_000), TooLarge, "text of a pattern"),
        (pattern("x", features=b"x" * 70_000), TooLarge, "features of a pattern"),
        (pattern("x", label="l" * 300), InvalidArgument, "label of 300"),
    ],
)
async def test_malformed_ones_are_refused_and_none_is_kept(opening, bad, kind, says):
    async with opening("inproc") as memory:
        with pytest.raises(kind, match=says):
            await memory.stub.PutPatterns(PutPatternsRequest(patterns=[pattern("good"), bad]))
        assert await read(memory) == []
