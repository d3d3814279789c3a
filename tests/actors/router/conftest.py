"""A router over a memory of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.actors.router.semantic.shop import Running


@pytest_asyncio.fixture
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    one = Running(f"semantic-{request.node.name}")
    await one.start()
    yield one
    await one.stop()
