"""Sessions: a conversation goes on without being sent again, whole, in order, and its tenant's alone."""

import asyncio

import pytest

from actors.base.channel import connect
from actors.base.errors import NotFound
from cluster.gateway.config import GatewayConfig
from cluster.gateway.conversation import follow
from cluster.gateway.sessions import Sessions
from protos.gen import inference_pb2 as pb
from protos.gen import memory_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

PATH = "/v1/russet/sessions"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def body(*messages: dict[str, str], session: str = "s1", **more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": list(messages), "russet": {"session_id": session, **more}}


async def ask(world, *messages, client=None, **more):
    """A turn; the answer's whole body."""
    reply = await (client or world.client()).post("/v1/chat/completions", json=body(*messages, **more))
    assert reply.status_code == 200, reply.text
    return reply.json()


def rendered(*messages: dict[str, str]) -> bytes:
    """What the fake's template makes of a conversation, special tokens as their ids."""
    return "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages).encode()


def read(request) -> bytes:
    """The prompt that a scheduler got, as text, without the beginning of the answer."""
    special = {256: b"<|endoftext|>", 257: b"<|im_start|>", 258: b"<|im_end|>"}
    text = b"".join(special.get(token, bytes([token & 255])) for token in request.token_ids)
    assert text.endswith(b"<|im_start|>assistant\n")
    return text.removesuffix(b"<|im_start|>assistant\n")


class FakeStub:
    """A stub of a memory that remembers nothing but what it was told."""

    def __init__(self) -> None:
        self.puts: list[memory_pb2.Session] = []
        self.meanwhile = lambda: None

    async def GetSession(self, request, timeout):
        return memory_pb2.GetSessionReply()

    async def PutSession(self, request):
        self.puts.append(request.session)
        self.meanwhile()


async def waits(world, count: int) -> None:
    """Return when so many requests of session s1 wait for their turn."""
    turn = world.gateway._sessions._turns["", "s1"]
    async with asyncio.timeout(5):
        while len(turn._waiters or ()) < count:
            await asyncio.sleep(0)


async def test_a_turn_follows_those_before_it(world):
    scheduler = await world.replica(answer="fine")
    await world.start(record_delay_s=30)  # memory hears of nothing while the turns are asked for
    first = await ask(world, system("s"), user("one"))
    second = await ask(world, user("two"))
    third = await ask(world, user("three"))
    assert [answer["russet"]["session"]["turns"] for answer in (first, second, third)] == [0, 3, 5]
    before, after = scheduler.requests[0], scheduler.requests[1]
    assert list(after.token_ids)[: len(before.token_ids) + 4] == [*before.token_ids, *b"fine"]
    said = (system("s"), user("one"), assistant("fine"), user("two"), assistant("fine"), user("three"))
    assert read(scheduler.requests[2]) == rendered(*said)
    assert [request.keep for request in scheduler.requests] == [True] * 3
    assert not world.memory.puts


async def test_memory_has_the_turn_with_its_place(world):
    await world.replica(answer="fine")
    await world.start()
    await ask(world, user("one"), kv_format="q8")
    await world.until(lambda: world.memory.sessions)
    session = world.memory.sessions["", "s1"]
    assert [(turn.role, turn.content) for turn in session.turns] == [("user", "one"), ("assistant", "fine")]
    assert (session.replica_id, session.model, session.kv.format, session.kv.tier) == ("tiny-0", "tiny", "q8", "memory")
    assert session.kv.tokens == len(session.token_ids)
    assert bytes(list(session.token_ids)[-4:]) == b"fine"
    assert session.turn_count == 2


async def test_the_answer_is_a_turn_before_the_client_sees_its_end(world):
    """While memory writes it, and after: no turn is lost between the two."""
    scheduler = await world.replica(answer="fine")
    world.memory.holding = asyncio.Event()
    await world.start()
    client = world.client()
    async with client.stream("POST", "/v1/chat/completions", json=body(user("one")) | {"stream": True}) as stream:
        async for line in stream.aiter_lines():
            if line == "data: [DONE]":
                break
        await ask(world, user("two"), client=client)
    await world.until(lambda: world.memory.puts)
    await ask(world, user("three"))
    world.memory.holding.set()
    said = (user("one"), assistant("fine"), user("two"), assistant("fine"), user("three"))
    assert read(scheduler.requests[2]) == rendered(*said)
    await world.until(lambda: len(world.memory.sessions["", "s1"].turns) == 6 if world.memory.sessions else False)


async def test_it_goes_on_after_the_gateway_was_restarted(world):
    scheduler = await world.replica(answer="fine")
    gateway = await world.start()
    await ask(world, user("one"))
    await gateway.stop()
    assert world.memory.sessions
    await world.start()
    assert (await ask(world, user("two")))["russet"]["session"]["turns"] == 2
    assert read(scheduler.requests[1]) == rendered(user("one"), assistant("fine"), user("two"))


TURNS = [("system", "s"), ("user", "a"), ("assistant", "b")]
FOLLOWED = [
    ([("user", "c")], [*TURNS, ("user", "c")], 3),
    ([("user", "a")], [*TURNS, ("user", "a")], 3),
    ([("user", "c"), ("user", "d")], [*TURNS, ("user", "c"), ("user", "d")], 3),
    ([("tool", "t")], [*TURNS, ("tool", "t")], 3),
    ([("system", "s"), ("user", "c")], [*TURNS, ("user", "c")], 2),
    ([("system", "other"), ("user", "c")], [("system", "other"), *TURNS[1:], ("user", "c")], 2),
    ([("developer", "d"), ("user", "c")], [("developer", "d"), *TURNS[1:], ("user", "c")], 2),
    ([("user", "c"), ("system", "later")], [*TURNS, ("user", "c"), ("system", "later")], 3),
    ([*TURNS, ("user", "c")], [*TURNS, ("user", "c")], 0),
    (TURNS, TURNS, 0),
    ([("user", "x"), ("assistant", "y"), ("user", "c")], [("user", "x"), ("assistant", "y"), ("user", "c")], 0),
]


@pytest.mark.parametrize(("sent", "expected", "followed"), FOLLOWED, ids=lambda value: str(value)[-40:])
def test_what_a_request_follows(sent, expected, followed):
    turns = [memory_pb2.Turn(role=role, content=content) for role, content in TURNS]
    messages, count = follow(turns, [pb.Message(role=role, content=content) for role, content in sent])
    assert [(message.role, message.content) for message in messages] == expected
    assert count == followed


def test_a_name_stays_with_its_turn():
    turns = [memory_pb2.Turn(role="user", content="a", name="ann"), memory_pb2.Turn(role="assistant", content="b")]
    messages, _ = follow(turns, [pb.Message(role="user", content="c")])
    assert [message.name if message.HasField("name") else None for message in messages] == ["ann", None, None]


async def test_a_conversation_sent_whole_is_not_doubled_and_is_the_session_from_then_on(world):
    scheduler = await world.replica(answer="fine")
    await world.start()
    await ask(world, user("one"))
    whole = await ask(world, user("one"), assistant("fine"), user("two"))
    assert whole["russet"]["session"]["turns"] == 0
    assert read(scheduler.requests[1]) == rendered(user("one"), assistant("fine"), user("two"))
    edited = (user("uno"), assistant("bien"), user("dos"))
    await ask(world, *edited)
    await ask(world, user("tres"))
    assert read(scheduler.requests[3]) == rendered(*edited, assistant("fine"), user("tres"))


async def test_requests_of_a_session_take_turns_in_the_order_they_come(world):
    scheduler = await world.replica(answer="fine")
    scheduler.hold_after = 2
    await world.start()
    stopped = asyncio.create_task(world.client().post("/v1/chat/completions", json=body(user("never"))))
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    scheduler.hold_after = None
    waiting = []
    for question in ("one", "two"):
        waiting.append(asyncio.create_task(ask(world, user(question))))
        await waits(world, len(waiting))
    # Another session, another tenant and a request without one wait for nobody.
    await ask(world, user("other"), session="s2")
    client = world.client(headers={"X-Russet-Tenant": "t"})
    await ask(world, user("mine"), client=client)
    assert len(scheduler.requests) == 3
    stopped.cancel()
    turns = [(await each)["russet"]["session"]["turns"] for each in waiting]
    # What was stopped became no turn.
    assert turns == [0, 2]
    assert read(scheduler.requests[4]) == rendered(user("one"), assistant("fine"), user("two"))


async def test_who_waits_too_long_is_refused(world):
    scheduler = await world.replica(answer="fine")
    scheduler.hold_after = 2
    await world.start(session_wait_s=0.05)
    running = asyncio.create_task(world.client().post("/v1/chat/completions", json=body(user("one"))))
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    late = await world.client().post("/v1/chat/completions", json=body(user("two")))
    assert (late.status_code, late.json()["error"]["param"]) == (409, "session_id")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("refusal", [{"max_tokens": 100_000}, {"stop": [""]}])
async def test_a_request_that_failed_leaves_the_session_as_it_was(world, refusal):
    scheduler = await world.replica(answer="fine")
    await world.start()
    await ask(world, user("one"))
    refused = await world.client().post("/v1/chat/completions", json=body(user("two")) | refusal)
    assert refused.status_code == 400
    await ask(world, user("three"))
    assert read(scheduler.requests[1]) == rendered(user("one"), assistant("fine"), user("three"))


async def test_without_memory_nothing_is_made_up(world):
    """A turn without what came before it would be answered wrongly, and then kept as the conversation."""
    scheduler = await world.replica(answer="fine")
    await world.start()
    world.memory.away = True
    refused = await world.client().post("/v1/chat/completions", json=body(user("two")))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert not scheduler.requests
    await ask(world, user("one"), assistant("fine"), user("two"))
    # Not written yet, and so known here.
    assert (await ask(world, user("three")))["russet"]["session"]["turns"] == 4


async def test_completions_only_share_the_replica(world):
    scheduler = await world.replica(answer="fine")
    await world.start()
    await ask(world, user("one"))
    client = world.client()
    completion = {"model": "tiny", "prompt": "ab", "russet": {"session_id": "s1", "kv_format": "q4"}}
    answer = (await client.post("/v1/completions", json=completion)).json()
    assert answer["russet"]["session"] == {"id": "s1", "turns": 0}
    request = scheduler.requests[1]
    assert (list(request.token_ids), request.session_id, request.keep, request.kv_format) == (
        [97, 98], "s1", True, "q4",
    )  # fmt: skip
    await ask(world, user("two"))
    assert read(scheduler.requests[2]) == rendered(user("one"), assistant("fine"), user("two"))


async def test_the_form_of_kv_is_passed_on_kept_and_told(world):
    scheduler = await world.replica(answer="fine")
    scheduler.cached_tokens, scheduler.restored_tokens = 48, 32
    await world.start()
    plain = await world.client().post("/v1/chat/completions", json={"messages": [user("x")], "model": "tiny"})
    assert plain.json()["russet"]["kv"] == {"format": "f16", "restored_tokens": 32}
    assert "session" not in plain.json()["russet"]
    first = await ask(world, user("one"), kv_format="q8")
    second = await ask(world, user("two"))
    third = await ask(world, user("three"), kv_format="auto")
    assert [each["russet"]["kv"]["format"] for each in (first, second, third)] == ["q8", "q8", "auto"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
    assert [request.kv_format for request in scheduler.requests] == ["", "q8", "q8", "auto"]
    assert [request.keep for request in scheduler.requests] == [False, True, True, True]


async def test_a_replica_without_the_sessions_form_takes_it_as_it_holds_others(world):
    first = await world.replica("tiny-0", answer="fine")
    await world.start()
    await ask(world, user("one"), kv_format="q8")
    second = await world.replica("tiny-1", answer="fine")
    second.forms = ("", "f16")
    del world.router.replicas["tiny-0"]
    assert (await ask(world, user("two")))["russet"]["kv"]["format"] == "f16"
    asked = await world.client().post("/v1/chat/completions", json=body(user("three"), kv_format="q8"))
    assert (asked.status_code, asked.json()["error"]["param"]) == (400, "kv_format")
    assert [request.kv_format for request in (*first.requests, *second.requests)] == ["q8", "q8", "", "q8"]


async def test_another_replica_is_told_where_the_kv_was_kept(world):
    first = await world.replica("tiny-0", answer="fine")
    await world.start()
    await ask(world, user("one"))
    await world.until(lambda: world.memory.sessions)
    assert not first.requests[0].kv_source
    await ask(world, user("two"))
    assert not first.requests[1].kv_source, "it has it itself"
    await world.until(lambda: world.memory.puts == 2)
    second = await world.replica("tiny-1", answer="fine")
    world.router.replicas = {name: world.router.replicas[name] for name in ("tiny-1", "tiny-0")}
    # A gateway that was restarted knows it from the session and from the replicas' table.
    assert world.gateway
    await world.gateway.stop()
    await world.start()
    await world.gateway._routes.refresh()
    await ask(world, user("three"))
    assert list(second.requests[0].kv_source) == ["unix:/tiny-0.worker"]
    assert world.router.routed[-1].session_replica == "tiny-0"
    await ask(world, user("four"))
    assert not second.requests[1].kv_source


async def test_list_show_and_delete(world):
    await world.replica(answer="fine")
    await world.start()
    client = world.client()
    for session in ("a/1", "b"):
        await ask(world, system("s"), user("one"), session=session)
    await world.until(lambda: len(world.memory.sessions) == 2)
    await ask(world, user("two"), session="a/1")
    rows = (await client.get(PATH)).json()["data"]
    assert [(row["id"], row["turns"], row["replica"]) for row in rows] == [("a/1", 5, "tiny-0"), ("b", 3, "tiny-0")]
    assert [row["id"] for row in (await client.get(PATH, params={"limit": 1})).json()["data"]] == ["a/1"]
    shown = (await client.get(f"{PATH}/a%2F1")).json()
    assert [message["content"] for message in shown["messages"]] == ["s", "one", "fine", "two", "fine"]
    assert shown["kv"]["tokens"] > 40
    assert shown["last_active"] >= shown["created"] > 1e9
    assert (await client.delete(f"{PATH}/a%2F1")).json() == {"id": "a/1", "object": "session", "deleted": True}
    assert (await client.delete(f"{PATH}/a%2F1")).json()["deleted"] is False
    gone = await client.get(f"{PATH}/a%2F1")
    assert (gone.status_code, gone.json()["error"]["param"]) == (404, "session_id")
    assert (await ask(world, user("one"), session="a/1"))["russet"]["session"]["turns"] == 0


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1", "١"])
async def test_a_bad_limit_is_named(world, limit):
    await world.start()
    bad = await world.client().get(PATH, params={"limit": limit})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "limit")


async def test_what_is_deleted_is_not_written_afterwards(world):
    """The turn is on its way to memory when the session is deleted."""
    await world.replica(answer="fine")
    world.memory.holding = asyncio.Event()
    await world.start()
    await ask(world, user("one"))
    await world.until(lambda: world.memory.puts)
    deleting = asyncio.create_task(world.client().delete(f"{PATH}/s1"))
    await ask(world, user("other"), session="s2")
    world.memory.holding.set()
    assert (await deleting).json()["deleted"] is True
    await world.until(lambda: ("", "s2") in world.memory.sessions)
    assert ("", "s1") not in world.memory.sessions


async def test_a_tenant_sees_its_own_alone(world):
    scheduler = await world.replica(answer="fine")
    await world.start()
    await ask(world, user("secret"))
    other = world.client(headers={"X-Russet-Tenant": "t"})
    assert (await other.get(PATH)).json()["data"] == []
    assert (await other.get(f"{PATH}/s1")).status_code == 404
    assert (await other.delete(f"{PATH}/s1")).json()["deleted"] is False
    assert (await ask(world, user("mine"), client=other))["russet"]["session"]["turns"] == 0
    assert b"secret" not in read(scheduler.requests[1])
    assert [row["turns"] for row in (await world.client().get(PATH)).json()["data"]] == [2]


def session(name: str, text: str = "x") -> memory_pb2.Session:
    return memory_pb2.Session(session_id=name, tenant="t", turns=[memory_pb2.Turn(role="user", content=text)])


async def test_a_turn_that_another_took_over_is_not_written():
    stub = FakeStub()
    sessions = Sessions(GatewayConfig(), stub)
    older, newer = session("a", "older"), session("a", "newer")
    sessions.keep(older)
    sessions.keep(newer)
    await sessions.write(newer, [1.0])
    await sessions.write(older, [1.0])
    assert [put.turns[0].content for put in stub.puts] == ["newer"]
    assert await sessions.read("t", "a") is None, "memory is asked again once it was told"


async def test_a_turn_kept_while_the_one_before_is_written_is_still_read():
    stub, older, newer = FakeStub(), session("a", "older"), session("a", "newer")
    sessions = Sessions(GatewayConfig(), stub)
    sessions.keep(older)
    stub.meanwhile = lambda: sessions.keep(newer)
    await sessions.write(older, [])
    assert await sessions.read("t", "a") is newer
    stub.meanwhile = lambda: None
    await sessions.write(newer, [])
    assert [put.turns[0].content for put in stub.puts] == ["older", "newer"]


async def test_turns_that_wait_for_memory_are_bounded():
    sessions = Sessions(GatewayConfig(record_queue=2), FakeStub())
    for name in "abc":
        sessions.keep(session(name))
    assert [await sessions.read("t", name) is not None for name in "abc"] == [False, True, True]


async def test_a_session_that_memory_refuses_takes_no_other_with_it(world):
    await world.replica(answer="fine")
    world.memory.refused.add("big")
    await world.start(record_delay_s=30, record_batch=2)
    await ask(world, user("one"), session="big")
    await ask(world, user("one"), session="small")
    await world.until(lambda: ("", "small") in world.memory.sessions)
    assert (await ask(world, user("two"), session="big"))["russet"]["session"]["turns"] == 2
    dropped = world.telemetry.registry.get_sample_value("russet_gateway_records_dropped_total", {"to": "sessions"})
    assert dropped == 1


async def test_the_same_over_grpc(world):
    await world.replica(answer="fine")
    await world.start()
    channel = connect(f"tcp:{world.gateway.addresses.grpc}")
    world.channels.append(channel)
    stub = InferenceStub(channel)
    request = pb.ChatRequest(model="tiny", messages=[pb.Message(role="user", content="one")], session_id="s1")
    assert (await stub.Chat(request)).session_turns == 0
    chunks = [chunk async for chunk in stub.ChatStream(request)]
    assert (chunks[-1].session_turns, chunks[-1].kv.format) == (2, "f16")
    (row,) = (await stub.ListSessions(pb.ListSessionsRequest())).sessions
    assert (row.session_id, row.turns, len(row.messages)) == ("s1", 4, 0)
    shown = await stub.GetSession(pb.GetSessionRequest(session_id="s1"))
    assert [message.role for message in shown.messages] == ["user", "assistant"] * 2
    assert (await stub.DeleteSession(pb.DeleteSessionRequest(session_id="s1"))).found
    with pytest.raises(NotFound, match="no session 's1'"):
        await stub.GetSession(pb.GetSessionRequest(session_id="s1"))
