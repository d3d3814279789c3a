"""The world behind a gateway, and a vocabulary."""

from collections.abc import AsyncGenerator, Callable

import pytest

from actors.base.vocabulary import Vocabulary
from protos.gen import (
    worker_pb2,
)
from tests.cluster.gateway.tiny_model import byte_vocabulary
from tests.cluster.gateway.world import World


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    """Everything but replicas; start the gateway with `await world.start()`."""
    world = World()
    yield world
    await world.stop()


@pytest.fixture
def tiny() -> Vocabulary:
    """The byte-level vocabulary."""
    return Vocabulary.from_message(byte_vocabulary())


@pytest.fixture
def make_vocabulary() -> Callable[..., worker_pb2.Vocabulary]:
    """byte_vocabulary(template, bos=)."""
    return byte_vocabulary
