"""The authority and nodes' certificates: who is accepted by whom while they change, and who keeps which secret."""

import asyncio
import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from actors.base.channel import connect
from actors.base.errors import Conflict, InvalidArgument, NotFound, Unavailable, Unreachable
from actors.base.security import Security
from actors.base.server import Server
from cluster.authority import certificate_request
from cluster.certificates import NodeCertificate, authority_of, certificate_of, leaf_in, nobody
from cluster.config import load
from protos.gen.telemetry_pb2 import IdentifyRequest, Identity
from protos.gen.telemetry_pb2_grpc import TelemetryServicer, TelemetryStub, add_TelemetryServicer_to_server
from tests.conftest import russet


class Answers(TelemetryServicer):
    async def Identify(self, request: IdentifyRequest, context: object) -> Identity:
        return Identity(role="answers")


def cluster(tmp_path: Path) -> tuple[NodeCertificate, NodeCertificate]:
    """The head, which holds the authority, and a worker, each with a home of its own."""
    head, worker = (NodeCertificate(tmp_path / name, name, 24) for name in ("head", "worker"))
    (tmp_path / "head" / "tls").mkdir(parents=True)
    assert head.authority.create()
    assert not head.authority.create()
    head.ensure(nobody)
    worker.ensure(head.authority.sign)
    return head, worker


async def reaches(caller: Security, serving: Security) -> bool:
    server = Server("certificates", [(add_TelemetryServicer_to_server, Answers())], tcp="127.0.0.1:0", security=serving)
    channel = connect((await server.start())[-1], security=caller)
    try:
        return (await TelemetryStub(channel).Identify(IdentifyRequest(), timeout=2)).role == "answers"
    except Unreachable:
        return False
    finally:
        await channel.close()
        await server.stop(grace_s=0)


async def both_ways(one: NodeCertificate, other: NodeCertificate) -> bool:
    there, back = await reaches(one.security, other.security), await reaches(other.security, one.security)
    assert there is back
    return there


async def test_nodes_of_one_authority_reach_each_other_and_no_others(tmp_path):
    head, worker = cluster(tmp_path)
    assert await both_ways(head, worker)
    stranger, _ = cluster(tmp_path / "elsewhere")
    assert not await both_ways(stranger, worker)


async def test_a_new_authority_and_the_old_are_both_trusted_until_the_old_is_dropped(tmp_path):
    head, worker = cluster(tmp_path)
    assert head.authority.rotate() == "0002"
    with pytest.raises(Conflict, match="0001 is trusted too"):
        head.authority.rotate()
    head.renew(nobody)
    assert await both_ways(head, worker), "the worker has heard of no new authority yet"
    with pytest.raises(Conflict, match=r"certificate of worker is of authority 0001; .russet certs rotate"):
        head.authority.drop()
    worker.renew(head.authority.sign)
    assert await both_ways(head, worker)

    kept = {path: path.read_bytes() for path in (worker.security.identity, worker.security.authorities)}
    assert head.authority.drop() == ["0001"]
    head.renew(nobody)
    assert await both_ways(head, worker)
    worker.renew(head.authority.sign)
    assert await both_ways(head, worker)
    assert len(head.authority.authorities()) == 1
    assert head.authority.drop() == []
    assert all(path.read_bytes() != before for path, before in kept.items())


async def test_a_certificate_of_a_dropped_authority_is_refused(tmp_path):
    head, worker = cluster(tmp_path)
    old = NodeCertificate(tmp_path / "old", "worker", 24)
    old.renew(head.authority.sign)
    head.authority.rotate()
    head.renew(nobody)
    worker.renew(head.authority.sign)
    head.authority.drop()
    head.renew(nobody)
    assert not await reaches(old.security, head.security)
    assert await both_ways(head, worker)


def test_keys_are_for_their_owner_and_stay_where_they_were_made(tmp_path):
    head, worker = cluster(tmp_path)
    secret = [worker.security.identity, *(tmp_path / "head/tls/authority").glob("*.key")]
    assert len(secret) == 2
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (tmp_path / "head/tls/authority", tmp_path / "worker/tls/nodes"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not worker.authority.exists
    asked = certificate_request(ec.generate_private_key(ec.SECP256R1()), "worker")
    assert b"PRIVATE" not in asked
    assert b"PRIVATE" not in b"".join(head.authority.sign(asked, "worker", 1))


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(tmp_path):
    head, _ = cluster(tmp_path)
    before = leaf_in(head.security.identity)
    assert before.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < datetime.timedelta(hours=24)
    assert not head.ensure(nobody)

    now = datetime.datetime.now(datetime.UTC)
    assert not head.due(now + datetime.timedelta(hours=15.5))
    assert head.due(now + datetime.timedelta(hours=16.5))
    short = NodeCertificate(head.home, "head", 1e-6)
    short.renew(nobody)
    assert short.ensure(nobody)
    assert leaf_in(head.security.identity).serial_number != before.serial_number


async def test_what_cannot_be_renewed_now_is_tried_again(tmp_path, caplog):
    worker, asked, again = cluster(tmp_path)[1], 0, asyncio.Event()
    worker.security.identity.unlink()
    loop = asyncio.get_running_loop()

    def away(request, node, hours):
        nonlocal asked
        asked += 1
        if asked == 2:
            loop.call_soon_threadsafe(again.set)
        raise Unavailable("the head is away")

    keeping = asyncio.create_task(worker.keep(away, look_s=0.001))
    await asyncio.wait_for(again.wait(), 10)
    keeping.cancel()
    assert "worker could not be renewed: the head is away" in caplog.text


@pytest.mark.parametrize("name", ["", "../head", "a/b", "a" * 64, "kopf\n", "ä"])
def test_what_cannot_name_a_node_is_refused(tmp_path, name):
    head, _ = cluster(tmp_path)
    asked = certificate_request(ec.generate_private_key(ec.SECP256R1()), "worker")
    with pytest.raises(InvalidArgument, match="node name"):
        head.authority.sign(asked, name, 1)


def test_a_request_is_signed_by_its_key_and_named_by_who_asks(tmp_path):
    head, _ = cluster(tmp_path)
    asked = certificate_request(ec.generate_private_key(ec.SECP256R1()), "head")
    chain = head.authority.sign(asked, "worker", 1).chain
    assert x509.load_pem_x509_certificate(chain).subject.rfc4514_string() == "CN=worker"
    for broken in (b"", b"nonsense", asked[:200], asked.replace(b"M", b"N", 3)):
        with pytest.raises(InvalidArgument, match="certificate request of worker"):
            head.authority.sign(broken, "worker", 1)
    with pytest.raises(NotFound, match="russet certs init"):
        authority_of(tmp_path / "nowhere").sign(asked, "worker", 1)


@pytest.mark.parametrize(
    ("actors", "bind", "secured"),
    [("auto", "loopback", False), ("auto", "node", True), ("on", "loopback", True), ("off", "node", False)],
)
def test_a_fleet_has_tls_unless_told_otherwise(tmp_path, actors, bind, secured):
    config = load(None, {"home": tmp_path, "tls.actors": actors, "ray.bind": bind}, {})
    assert (certificate_of(config, "10.0.0.1") is not None) is secured


def test_certs_from_the_command_line(home):
    file = home / "russet.toml"
    file.write_text(f'home = "{home}"\n')

    def certs(*arguments: str) -> str:
        done = russet("certs", *arguments, "--config", str(file))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "`russet certs init` makes one" in certs("show")
    assert "Made a certificate authority" in certs("init")
    assert "There is one already" in certs("init")
    config = load(file, {"tls.actors": "on"}, {})
    node = certificate_of(config, "10.0.0.1")
    assert node is not None
    node.ensure(nobody)
    before = leaf_in(node.security.identity).serial_number
    assert "Authority 0002 signs from now on" in certs("rotate", "--ca")
    assert leaf_in(node.security.identity).serial_number != before
    shown = certs("show")
    assert "10.0.0.1" in shown
    assert "of authority 0002" in shown
    assert "trusted until" in shown
    assert "No longer trusted: 0001." in certs("drop")
    assert "There is one authority only." in certs("drop")
