"""Nodes speak TCP only to nodes that their authority signed."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, Unreachable
from actors.base.security import Security, equal
from actors.base.server import Server
from protos.gen.scheduler_pb2 import DescribeRequest
from protos.gen.scheduler_pb2_grpc import SchedulerStub, add_SchedulerServicer_to_server


def node(directory: Path) -> Security:
    """A certificate for 127.0.0.1, signed by an authority of its own."""
    directory.mkdir()

    def certificate(name: str, key, issuer: str, issuer_key, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = directory.name + " authority"
    (directory / "authority").write_bytes(certificate(authority, authority_key, authority, authority_key, True))
    (directory / "certificate").write_bytes(certificate("node", key, authority, authority_key, False))
    (directory / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Security(directory / "certificate", directory / "key", directory / "authority")


async def test_only_nodes_of_the_authority_may_speak_over_tcp(handlers, tmp_path):
    ours, theirs = node(tmp_path / "ours"), node(tmp_path / "theirs")
    server = Server("tls", [(add_SchedulerServicer_to_server, handlers)], tcp="127.0.0.1:0", security=ours)
    address = (await server.start())[-1]
    channel = connect(address, security=ours)
    assert (await SchedulerStub(channel).Describe(DescribeRequest(), timeout=5)).replica_id == "replica"
    await channel.close()
    for security in (None, theirs):
        channel = connect(address, security=security)
        with pytest.raises(Unreachable):
            await SchedulerStub(channel).Describe(DescribeRequest(), timeout=1)
        await channel.close()
    await server.stop(grace_s=0)
    assert handlers.calls == 1


def test_a_missing_certificate_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match="key: No such file"):
        Security(tmp_path / "certificate", tmp_path / "key", tmp_path / "authority").server_credentials()


@pytest.mark.parametrize(("given", "same"), [("abc", True), ("abd", False), ("ab", False), ("", False), ("ä", False)])
def test_secrets_are_compared(given, same):
    assert equal(given, "abc") is same
