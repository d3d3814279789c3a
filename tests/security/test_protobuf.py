"""Poisoned messages to an actor's own port: the call is refused, and the process goes on serving."""

import contextlib
import os
import random
import socket

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.server import Server
from protos.gen import memory_pb2, memory_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

METHODS = ("/russet.scheduler.v1.Scheduler/Describe", "/russet.memory.v1.Memory/PutSession")
REFUSALS = {
    grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN,
}  # fmt: skip


class Actor(scheduler_pb2_grpc.SchedulerServicer, memory_pb2_grpc.MemoryServicer):
    """Answers what it can read."""

    async def Describe(self, request: scheduler_pb2.DescribeRequest, context: object) -> scheduler_pb2.DescribeReply:
        return scheduler_pb2.DescribeReply(replica_id="here")

    async def PutSession(self, request: memory_pb2.PutSessionRequest, context: object) -> memory_pb2.PutSessionReply:
        return memory_pb2.PutSessionReply()


@pytest.fixture
async def actor():
    servicer = Actor()
    services = [
        (scheduler_pb2_grpc.add_SchedulerServicer_to_server, servicer),
        (memory_pb2_grpc.add_MemoryServicer_to_server, servicer),
    ]
    server = Server("poisoned", services, tcp="127.0.0.1:0")
    address = (await server.start())[-1].removeprefix("tcp:")
    yield address
    await server.stop(grace_s=0)


async def send(channel: grpc.aio.Channel, method: str, raw: bytes) -> grpc.StatusCode:
    try:
        await channel.unary_unary(method)(raw, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def serves(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await scheduler_pb2_grpc.SchedulerStub(channel).Describe(scheduler_pb2.DescribeRequest(), timeout=20)
        assert reply.replica_id == "here"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def nested(depth: int) -> bytes:
    """A message in field 1 of a message in field 1, and so on: lengths are right."""
    body = b""
    for _ in range(depth):
        body = b"\x0a" + varint(len(body)) + body
    return body


POISON = {
    "random": random.Random(1).randbytes(4096),
    "a length past the end": b"\x0a" + varint(1 << 31) + b"x",
    "the largest length": b"\x0a" + varint((1 << 64) - 1) + b"x",
    "an endless number": b"\x08" + b"\xff" * 1000,
    "a group that never ends": b"\x0b" * 5000,
    "deep": nested(3000),
    "deep groups": b"\x0b" * 200 + b"\x0c" * 200,
    "field nought": b"\x00\x00",
    "text that is none": b"\x0a\x04\xff\xfe\xfd\xfc",
    "many unknown fields": b"\xf8\xff\x07\x01" * 500_000,
    "a wire type that there is not": b"\x0f\x0f\x0f",
}


@pytest.mark.parametrize("raw", POISON.values(), ids=POISON)
async def test_poison_is_refused_or_means_nothing(actor, raw):
    async with grpc.aio.insecure_channel(actor, (("grpc.max_send_message_length", -1),)) as channel:
        for method in METHODS:
            assert await send(channel, method, raw) in REFUSALS | {grpc.StatusCode.OK}
    await serves(actor)


async def test_a_message_of_more_than_64_mib_is_not_read(actor):
    async with grpc.aio.insecure_channel(actor, (("grpc.max_send_message_length", -1),)) as channel:
        assert await send(channel, METHODS[0], bytes((64 << 20) + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    await serves(actor)


async def test_unknown_services_and_methods_are_refused(actor):
    async with grpc.aio.insecure_channel(actor) as channel:
        for method in ("/a/b", "/russet.scheduler.v1.Scheduler/Nothing", "/" + "a" * 4000 + "/b", "//", "/../etc"):
            assert await send(channel, method, b"") in REFUSALS
    await serves(actor)


async def test_bytes_that_are_no_http2_end_their_connection_alone(actor):
    host, port = actor.split(":")
    for raw in (os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw)
            await serves(actor)


@given(raw=st.binary(max_size=300))
@settings(max_examples=300)
@pytest.mark.parametrize(
    "kind", [scheduler_pb2.GenerateRequest, memory_pb2.PutSessionRequest], ids=lambda kind: kind.__name__
)
def test_any_bytes_are_a_message_or_a_decode_error(kind, raw):
    with contextlib.suppress(DecodeError):
        kind.FromString(raw)
