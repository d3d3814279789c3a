"""Nodes speak TCP only to nodes that their authority signed, and certificates change under what runs."""

import asyncio
import logging

import pytest

from actors.base import security as security_module
from actors.base.channel import connect
from actors.base.errors import InvalidArgument, Unauthenticated, Unreachable
from actors.base.security import NODE, Security, adopt, equal
from actors.base.server import Server
from protos.gen.scheduler_pb2 import DescribeRequest, DrainRequest
from protos.gen.scheduler_pb2_grpc import SchedulerStub, add_SchedulerServicer_to_server
from tests.oracles.authority import Maker, replace


@pytest.fixture
async def secured(handlers, tmp_path, short_dir):
    """A server with TLS on TCP, the authority that made its certificate, and its files."""
    maker = Maker("ours")
    ours = maker.node(tmp_path / "ours")
    servicers = [(add_SchedulerServicer_to_server, handlers)]
    server = Server("tls", servicers, tcp="127.0.0.1:0", unix=f"{short_dir}/tls", security=ours)
    addresses = await server.start()
    yield maker, ours, addresses
    await server.stop(grace_s=0)


async def describe(address: str, security: Security | None) -> str:
    channel = connect(address, security=security)
    try:
        return (await SchedulerStub(channel).Describe(DescribeRequest(), timeout=2)).replica_id
    finally:
        await channel.close()


async def test_only_nodes_of_the_authority_may_speak_over_tcp(secured, handlers, tmp_path):
    maker, ours, (_, unix, tcp) = secured
    assert await describe(tcp, ours) == await describe(unix, None) == "replica"
    stranger = Maker("theirs").node(tmp_path / "theirs")
    deceiver = Security(stranger.identity, ours.authorities)  # it trusts us; we do not trust it
    expired = maker.node(tmp_path / "expired", hours=-1)
    for refused in (None, stranger, deceiver, expired):
        with pytest.raises(Unreachable):
            await describe(tcp, refused)
    assert handlers.calls == 2


async def test_a_certificate_of_the_authority_that_is_no_nodes_may_not_call(secured, handlers, tmp_path):
    maker, _, (_, _, tcp) = secured
    other = maker.node(tmp_path / "client", role="client.example")
    with pytest.raises(Unauthenticated, match=f"does not name {NODE}"):
        await describe(tcp, other)
    assert handlers.calls == 0


async def test_a_server_that_is_no_node_is_not_called(handlers, tmp_path):
    maker = Maker("ours")
    false = maker.node(tmp_path / "false", role="client.example")
    server = Server("false", [(add_SchedulerServicer_to_server, handlers)], tcp="127.0.0.1:0", security=false)
    address = (await server.start())[-1]
    with pytest.raises(Unreachable):
        await describe(address, maker.node(tmp_path / "ours"))
    await server.stop(grace_s=0)


async def test_new_files_are_taken_up_and_open_calls_go_on(secured, handlers, tmp_path, monkeypatch):
    monkeypatch.setattr("actors.base.channel.LOOK_S", -1.0)
    _, ours, (_, _, tcp) = secured
    files = Maker("ours").node(tmp_path / "mine")
    replace(files.identity, ours.identity.read_bytes())
    replace(files.authorities, ours.authorities.read_bytes())
    channel = connect(tcp, security=files)
    stub = SchedulerStub(channel)
    waiting = asyncio.create_task(stub.Drain(DrainRequest(), timeout=10))
    await handlers.entered.wait()
    first = channel.current()
    assert first is not None

    another = Maker("another")
    another.node(tmp_path / "ours")  # both sides change to another authority
    another.node(tmp_path / "mine")
    assert (await stub.Describe(DescribeRequest(), timeout=2)).replica_id == "replica"
    assert channel.current() is not first
    handlers.release.set()
    assert (await waiting).remaining == 7
    await channel.close()


async def test_broken_files_leave_the_earlier_certificate_in_use(secured, caplog):
    _, ours, (_, _, tcp) = secured
    kept = Security(ours.identity.with_name("kept.pem"), ours.authorities)
    replace(kept.identity, ours.identity.read_bytes())
    replace(ours.identity, b"half a fi")
    with caplog.at_level(logging.WARNING):
        assert await describe(tcp, kept) == "replica"
    assert "still serving the earlier certificate" in caplog.text


async def test_what_a_process_adopted_is_shown_by_every_channel(secured):
    _, ours, (_, _, tcp) = secured
    adopt(ours)
    try:
        assert await describe(tcp, None) == "replica"
    finally:
        adopt(None)
    assert security_module.own() is None


def test_a_missing_certificate_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match=r"node\.pem: No such file"):
        Security(tmp_path / "node.pem", tmp_path / "ca.pem").server_credentials()


@pytest.mark.parametrize(("given", "same"), [("abc", True), ("abd", False), ("ab", False), ("", False), ("ä", False)])
def test_secrets_are_compared(given, same):
    assert equal(given, "abc") is same
