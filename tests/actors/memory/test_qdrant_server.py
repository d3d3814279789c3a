"""The way to a Qdrant server: keys, certificates, answers that fail or stay away."""

import datetime
import ipaddress
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from qdrant_client import QdrantClient, models

from actors.base.errors import Internal, InvalidArgument, PermissionDenied, Unavailable
from actors.memory.config import MemoryConfig
from actors.memory.qdrant_server import REQUEST_BYTES, TRIES, QdrantServer, _requests
from actors.memory.store import Entry, Schema
from tests.actors.memory.qdrant_stub import Stub, running

SCHEMA = Schema("things", 4, "all-MiniLM-L6-v2", keywords=("kind",))
KEY = "s3cret-of-the-server"


def connect(stub: Stub, **more) -> tuple[QdrantServer, list[float]]:
    """A connection that does not wait between tries, but notes how long it would have."""
    server = QdrantServer.connect(MemoryConfig(server_url=stub.url, **more))
    pauses: list[float] = []
    server._pause = pauses.append
    return server, pauses


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_failure_is_tried_again(status: int):
    with running() as stub:
        server, pauses = connect(stub)
        things = server.collection(SCHEMA)
        stub.failures = [status] * (TRIES - 1)
        things.upsert([Entry("00000000-0000-0000-0000-000000000001", {"kind": "a"})])
        assert things.count() == 1
        assert len(pauses) == TRIES - 1
        assert pauses == ([1, 1, 1] if status == 429 else [0.1, 0.2, 0.4])
        server.close()


def test_tries_are_bounded_and_it_says_who_is_away():
    with running() as stub:
        server, _ = connect(stub)
        things = server.collection(SCHEMA)
        stub.failures = [503] * 100
        with pytest.raises(Unavailable, match=rf"{stub.url} did not answer {TRIES} times.*503.*not now") as away:
            things.count()
        assert away.value.retry_after_s
        assert len(stub.failures) == 100 - TRIES
    with pytest.raises(Unavailable, match=rf"{stub.url} did not answer {TRIES} times.*memory\.server_url"):
        things.count()
    server.close()


def test_what_the_server_refuses_is_not_tried_again():
    with running() as stub:
        server, pauses = connect(stub)
        things = server.collection(SCHEMA)
        stub.failures = [400]
        with pytest.raises(Internal, match=r"answered 400: .*not now"):
            things.count()
        assert (stub.failures, pauses) == ([], [])
        server.close()


def test_the_key_is_sent_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    with running(key=KEY) as stub:
        for more in ({"server_key": KEY}, {"server_key_file": file}):
            server, _ = connect(stub, **more)
            server.collection(SCHEMA)
            server.close()
        assert stub.seen_keys == {KEY}
        server, pauses = connect(stub, server_key="another")
        with pytest.raises(PermissionDenied, match=r"refuses our key.*memory\.server_key_file") as refused:
            server.collection(SCHEMA)
        server.close()
        assert pauses == []
    config = MemoryConfig(server_url="https://q:6333", server_key=KEY)
    shown = [config.model_dump_json(), repr(config), str(refused.value), caplog.text]
    assert not any(KEY in text or "another" in text for text in shown)
    handed = MemoryConfig.model_validate_json(config.model_dump_json(context={"secrets": True}))
    assert handed.key_of_server() == KEY


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path):
    file = tmp_path / "key"
    config = MemoryConfig(server_url="https://q:6333", server_key_file=file)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        config.key_of_server()
    file.write_text("two words")
    file.chmod(0o644)
    with pytest.raises(InvalidArgument, match=rf"mode 0644.*chmod 600 {file}"):
        config.key_of_server()
    file.chmod(0o600)
    with pytest.raises(InvalidArgument, match="holds no key"):
        config.key_of_server()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost, signed by its own key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    files = directory / "certificate.pem", directory / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_a_certificate_is_checked(certificate: tuple[Path, Path], tmp_path: Path):
    with running(certificate=certificate) as stub:
        server, _ = connect(stub, server_ca_file=certificate[0])
        assert server.collection(SCHEMA).count() == 0
        server.close()
        stranger, _ = connect(stub)
        with pytest.raises(Unavailable, match="certificate"):
            stranger.collection(SCHEMA)
        stranger.close()
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(InvalidArgument, match=r"memory\.server_ca_file .*empty\.pem holds no certificates"):
        QdrantServer.connect(MemoryConfig(server_url=stub.url, server_ca_file=tmp_path / "empty.pem"))


@pytest.mark.parametrize(
    ("distance", "metadata", "named"),
    [
        (models.Distance.DOT, {"embedder": "all-MiniLM-L6-v2"}, "'metric': 'dot'.*'metric': 'cosine'"),
        (models.Distance.COSINE, {}, "not made by Russet"),
    ],
)
def test_a_collection_of_another_kind_is_refused(distance, metadata, named):
    client = QdrantClient(":memory:")
    vectors = {"text": models.VectorParams(size=4, distance=distance)}
    client.create_collection("russet-things", vectors, metadata=metadata)
    with pytest.raises(InvalidArgument, match=named):
        QdrantServer(client, "here", "russet").collection(SCHEMA)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"store": "server"}, "server_url is not set"),
        ({"store": "sqlite"}, "'embedded' or 'server'"),
        ({"server_url": "localhost:6333"}, "server_url"),
        ({"server_url": "https://user:pass@host"}, "server_url"),
        ({"server_url": "http://far.example", "server_key": KEY}, "in the clear; accepted: an https URL"),
        ({"server_key": KEY, "server_key_file": "k"}, "both set"),
        ({"server_prefix": "a/b"}, "server_prefix"),
    ],
)
def test_a_wrong_setting_is_named(broken: dict, named: str):
    with pytest.raises(ValidationError, match=named) as wrong:
        MemoryConfig.model_validate(broken)
    if "server_url" in broken and "server_key" in broken:
        assert KEY not in str(wrong.value)


def test_requests_are_cut_by_bytes_and_keep_their_order():
    entries = [Entry(str(at), {"blob": "x" * (REQUEST_BYTES // 3)}, np.zeros(4).tolist()) for at in range(7)]
    some = list(_requests(entries))
    assert [entry for part in some for entry in part] == entries
    assert [len(part) for part in some] == [2, 2, 2, 1]
    assert list(_requests([])) == []
