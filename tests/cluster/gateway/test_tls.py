"""TLS towards clients, for HTTP and gRPC: who gets in, and certificates that change under what runs."""

import asyncio
import ssl

import grpc
import httpx
import pytest
from pydantic import ValidationError

from actors.base.errors import InvalidArgument
from cluster.gateway.config import GatewayConfig
from protos.gen.inference_pb2 import ListModelsRequest
from protos.gen.inference_pb2_grpc import InferenceStub
from tests.oracles.authority import Maker, replace


class Files:
    """A gateway's certificate and key, and who signed it."""

    def __init__(self, directory, ask_clients=False):
        self.maker, self.clients = Maker("public"), Maker("clients")
        self.settings = {"tls_certificate": directory / "cert.pem", "tls_key": directory / "key.pem"}
        self.renew(self.maker)
        if ask_clients:
            self.settings["tls_client_ca"] = directory / "clients.pem"
            replace(directory / "clients.pem", self.clients.pem)

    def renew(self, maker):
        key, certificate = maker.pair("localhost")
        replace(self.settings["tls_key"], key)
        replace(self.settings["tls_certificate"], certificate)

    def context(self, *trusted, pair=None, directory=None):
        """A client's, who shows `pair`."""
        made = ssl.create_default_context(cadata="".join(maker.pem.decode() for maker in trusted or (self.maker,)))
        if pair:
            for name, content in zip(("k", "c"), pair, strict=True):
                replace(directory / name, content)
            made.load_cert_chain(directory / "c", directory / "k")
        return made


async def get(world, context):
    url = world.url.replace("127.0.0.1", "localhost")
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=10) as http:
        return (await http.get(f"{url}/v1/models")).status_code


async def models(world, *maker, pair=(None, None)):
    address = world.gateway.addresses.grpc.replace("127.0.0.1", "localhost")
    credentials = grpc.ssl_channel_credentials(maker[0].pem, *pair)
    async with grpc.aio.secure_channel(address, credentials, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        return await InferenceStub(channel).ListModels(ListModelsRequest(), timeout=5)


async def test_both_listeners_speak_tls_alone(world, tmp_path):
    files = Files(tmp_path)
    await world.replica()
    await world.start(**files.settings)
    assert world.url.startswith("https://")
    assert await get(world, files.context()) == 200
    assert (await models(world, files.maker)).models
    with pytest.raises(httpx.RemoteProtocolError):
        await httpx.AsyncClient(trust_env=False).get(f"{world.url.replace('https', 'http')}/v1/models")
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await InferenceStub(channel).ListModels(ListModelsRequest(), timeout=5)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await get(world, files.context(Maker("another")))
    assert await get(world, files.context()) == 200, "it still serves"


async def test_old_versions_of_tls_are_refused(world, tmp_path):
    files = Files(tmp_path)
    await world.start(**files.settings)
    old = files.context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        await get(world, old)
    newer = files.context()
    newer.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await get(world, newer) == 200


async def test_a_renewed_certificate_is_shown_to_new_connections_and_open_ones_go_on(world, tmp_path):
    files = Files(tmp_path)
    await world.replica()
    await world.start(**files.settings)
    url = world.url.replace("127.0.0.1", "localhost")
    another = Maker("another")
    async with httpx.AsyncClient(verify=files.context(), trust_env=False) as open_:
        assert (await open_.get(f"{url}/version")).status_code == 200
        files.renew(another)
        assert await get(world, files.context(another)) == 200
        assert (await models(world, another)).models
        with pytest.raises(httpx.ConnectError):
            await get(world, files.context())
        assert (await open_.get(f"{url}/version")).status_code == 200
    replace(files.settings["tls_key"], b"half")
    assert await get(world, files.context(another)) == 200
    assert (await models(world, another)).models


async def test_clients_show_certificates_where_they_are_asked_for(world, tmp_path):
    files = Files(tmp_path, ask_clients=True)
    await world.replica()
    await world.start(**files.settings)
    ours, theirs = files.clients.pair("client"), Maker("another").pair("client")
    expired = files.clients.pair("client", hours=-1)
    assert await get(world, files.context(pair=ours, directory=tmp_path)) == 200
    assert (await models(world, files.maker, pair=ours)).models
    for wrong in (None, theirs, expired):
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await get(world, files.context(pair=wrong, directory=tmp_path))
        with pytest.raises(grpc.aio.AioRpcError):
            await models(world, files.maker, pair=wrong or (None, None))
    replaced = Maker("another")
    replace(files.settings["tls_client_ca"], replaced.pem)
    with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
        await get(world, files.context(pair=ours, directory=tmp_path))
    assert await get(world, files.context(pair=replaced.pair("client"), directory=tmp_path)) == 200


async def test_who_never_finishes_the_handshake_hinders_nobody(world, tmp_path):
    files = Files(tmp_path)
    await world.start(**files.settings)
    port = int(world.url.rpartition(":")[2])
    hanging = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    for _, writer in hanging:
        writer.write(b"\x16\x03\x01")
        await writer.drain()
    assert await get(world, files.context()) == 200
    for _, writer in hanging:
        writer.close()


@pytest.mark.parametrize(
    "given", [{"tls_certificate": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}], ids=lambda given: next(iter(given))
)
def test_settings_that_belong_together(given):
    with pytest.raises(ValidationError, match="tls_"):
        GatewayConfig(**given)


async def test_files_that_are_no_certificate_are_named(world, tmp_path):
    files = Files(tmp_path)
    replace(files.settings["tls_key"], files.maker.pair("x")[0])
    with pytest.raises(InvalidArgument, match=r"cannot serve TLS with .*cert\.pem, .*key\.pem"):
        await world.start(**files.settings)
    world.gateway = None
