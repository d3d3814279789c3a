"""Which address a channel takes, when it looks again, what it repeats; and how a server begins and what it offers."""

import asyncio
import socket
import stat

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from actors.base.channel import ATTEMPTS, connect
from actors.base.errors import Conflict, DeadlineExceeded, Internal, InvalidArgument, TooLarge, Unreachable
from actors.base.server import Server
from protos.gen.scheduler_pb2 import DescribeRequest, GenerateRequest
from protos.gen.scheduler_pb2_grpc import SchedulerStub, add_SchedulerServicer_to_server
from protos.gen.worker_pb2 import HelloRequest
from protos.gen.worker_pb2_grpc import WorkerStub, add_WorkerServicer_to_server


async def describe(channel) -> str:
    """The answer to a small call."""
    return (await SchedulerStub(channel).Describe(DescribeRequest(), timeout=5)).replica_id


async def test_the_first_reachable_address_is_taken(server, short_dir):
    _, at = server
    ways = {
        at["inproc"]: [at["inproc"], at["unix"], at["tcp"]],
        at["unix"]: ["inproc:elsewhere", at["unix"], at["tcp"]],
        at["tcp"]: ["inproc:elsewhere", f"unix:{short_dir}/none", at["tcp"]],
    }
    for expected, target in ways.items():
        channel = connect(target)
        assert channel.addresses == ()
        assert await describe(channel) == "replica"
        assert channel.address == expected
        assert list(channel.addresses) == target
        await channel.close()


async def test_a_socket_file_that_a_killed_process_left_is_passed_over(server, short_dir):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(short_dir / "left"))
    left.close()
    channel = connect([f"unix:{short_dir}/left", server[1]["tcp"]])
    assert await describe(channel) == "replica"
    assert channel.address == server[1]["tcp"]
    await channel.close()


async def test_an_address_of_no_known_kind_is_refused():
    with pytest.raises(InvalidArgument, match=r"'127.0.0.1:1'.*inproc:NAME, unix:PATH or tcp:HOST:PORT"):
        await describe(connect("127.0.0.1:1"))


async def test_a_service_that_is_nowhere_is_unreachable_and_says_when_to_come_back():
    with pytest.raises(Unreachable, match="inproc:nobody") as raised:
        await describe(connect("inproc:nobody"))
    assert raised.value.retry_after_s == 1


async def test_the_resolver_is_asked_again_after_a_restart_at_another_port(handlers):
    asked = 0
    addresses: list[str] = []

    async def find() -> list[str]:
        nonlocal asked
        asked += 1
        return [address for address in addresses if not address.startswith("inproc")]

    async def start() -> Server:
        server = Server("restarts", [(add_SchedulerServicer_to_server, handlers)], tcp="127.0.0.1:0")
        addresses[:] = await server.start()
        return server

    first = await start()
    channel = connect(find)
    assert await describe(channel) == "replica"
    assert await describe(channel) == "replica"
    assert asked == 1
    before = channel.address
    await first.stop(grace_s=0)
    second = await start()
    assert await describe(channel) == "replica"
    assert asked == 2
    assert channel.address != before
    await channel.close()
    await second.stop(grace_s=0)


async def test_a_restarted_service_in_process_is_found_again(handlers):
    channel = connect("inproc:restarts")
    for _ in range(2):
        server = Server("restarts", [(add_SchedulerServicer_to_server, handlers)])
        await server.start()
        assert await describe(channel) == "replica"
        await server.stop(grace_s=0)
    await channel.close()


class Refusing:
    """A TCP listener that accepts and hangs up, and counts how often."""

    def __init__(self) -> None:
        self.accepted = 0

    async def start(self) -> str:
        """Listen; returns the address."""

        def accept(_, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            writer.close()

        self._server = await asyncio.start_server(accept, "127.0.0.1", 0)
        return f"tcp:127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Stop listening."""
        self._server.close()


@pytest.mark.parametrize(
    ("stub", "method", "request_", "attempts"),
    [(SchedulerStub, "Describe", DescribeRequest(), ATTEMPTS), (WorkerStub, "Hello", HelloRequest(), 1)],
)
async def test_only_methods_that_may_be_repeated_are(stub, method, request_, attempts):
    refusing = Refusing()
    address = await refusing.start()
    asked = 0

    async def find() -> list[str]:
        nonlocal asked
        asked += 1
        return [address]

    with pytest.raises(Unreachable):
        await getattr(stub(connect(find)), method)(request_, timeout=5)
    refusing.stop()
    assert asked == attempts


async def test_the_deadline_holds_over_all_attempts_and_the_resolver():
    async def never() -> list[str]:
        await asyncio.Event().wait()
        return []

    async with asyncio.timeout(5):
        with pytest.raises(DeadlineExceeded, match=r"no address within 0\.05 s"):
            await SchedulerStub(connect(never)).Describe(DescribeRequest(), timeout=0.05)


async def test_a_message_past_the_limit_is_too_large(server):
    channel = connect(server[1]["unix"])
    with pytest.raises(TooLarge, match="larger than max"):
        async for _ in SchedulerStub(channel).Generate(GenerateRequest(request_id="x" * (65 << 20))):
            pass
    await channel.close()


async def test_a_busy_port_is_a_clear_error(server, handlers):
    busy = server[1]["tcp"].removeprefix("tcp:")
    second = Server("second", [(add_SchedulerServicer_to_server, handlers)], tcp=busy)
    with pytest.raises(Conflict, match=f"second cannot listen on {busy}"):
        await second.start()
    third = Server("second", [(add_SchedulerServicer_to_server, handlers)])
    assert await third.start() == ["inproc:second"], "the failed one must not keep its name"
    await third.stop(grace_s=0)


async def test_a_living_socket_is_not_taken_over(server, handlers):
    busy = server[1]["unix"].removeprefix("unix:")
    second = Server("second", [(add_SchedulerServicer_to_server, handlers)], unix=busy)
    with pytest.raises(Conflict, match="another process serves there"):
        await second.start()
    channel = connect(server[1]["unix"])
    assert await describe(channel) == "replica"
    await channel.close()


async def test_a_name_is_served_once(server, handlers):
    with pytest.raises(Conflict, match="named test runs in this process"):
        await Server("test", [(add_SchedulerServicer_to_server, handlers)]).start()


async def test_only_its_user_may_open_the_socket(server, short_dir):
    assert stat.S_IMODE((short_dir / "s").stat().st_mode) == 0o600


async def test_addresses_come_cheapest_first(server):
    assert list(server[1]) == ["inproc", "unix", "tcp"]


async def test_health_and_reflection_answer(server):
    async with grpc.aio.insecure_channel(server[1]["tcp"].removeprefix("tcp:")) as plain:
        health = health_pb2_grpc.HealthStub(plain)
        for service in ("", "russet.scheduler.v1.Scheduler"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(plain)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        replies = [reply async for reply in reflection.ServerReflectionInfo(iter(asked))]
        names = {service.name for service in replies[0].list_services_response.service}
        assert {"russet.scheduler.v1.Scheduler", "russet.worker.v1.Worker", "grpc.health.v1.Health"} <= names


async def test_health_says_what_the_server_was_told(server):
    async with grpc.aio.insecure_channel(server[1]["unix"]) as plain:
        health = health_pb2_grpc.HealthStub(plain)
        request = health_pb2.HealthCheckRequest(service="russet.scheduler.v1.Scheduler")
        watch = health.Watch(request)
        seen = [(await watch.read()).status]
        for serving in (False, True):
            await server[0].set_serving(serving)
            seen.append((await watch.read()).status)
        watch.cancel()
        states = health_pb2.HealthCheckResponse
        assert seen == [states.SERVING, states.NOT_SERVING, states.SERVING]
        await server[0].set_serving(False)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == states.NOT_SERVING


async def test_a_plain_grpc_client_sees_status_and_details(server, handlers):
    handlers.error = Conflict("the epoch is 3, not 2")
    async with grpc.aio.insecure_channel(server[1]["tcp"].removeprefix("tcp:")) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await SchedulerStub(plain).Describe(DescribeRequest())
    assert raised.value.code() is grpc.StatusCode.ABORTED
    assert raised.value.details() == "the epoch is 3, not 2"


async def test_a_method_that_is_not_served_is_named(handlers):
    server = Server("alone", [(add_WorkerServicer_to_server, handlers)])
    await server.start()
    with pytest.raises(Internal, match=r"alone serves no /russet\.scheduler\.v1\.Scheduler/Describe"):
        await describe(connect("inproc:alone"))
    await server.stop(grace_s=0)
