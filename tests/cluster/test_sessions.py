"""Sessions on the real model as a user has them: the openai client, the command line, KV that is found again."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from typer.testing import CliRunner

from actors.base.channel import connect
from cluster import cli
from cluster.local import LocalCluster
from protos.gen import router_pb2, scheduler_pb2
from protos.gen.router_pb2_grpc import RouterStub
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
PAGE = 16


async def turn(cluster: LocalCluster, session: str, *said: str, **options: Any) -> ChatCompletion:
    """A turn of a session: system and user messages in turn, the last one the user's."""
    client = openai.AsyncOpenAI(base_url=f"{cluster.http}/v1", api_key="none", max_retries=0)
    roles = ("user",) if len(said) == 1 else ("system", "user")
    messages: list[Any] = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    extra = {"russet": {"session_id": session}} | options.pop("extra", {})
    return await client.chat.completions.create(
        model=MODEL, messages=messages, extra_body=extra, **({"temperature": 0, "max_tokens": 48} | options)
    )


def found(answer: ChatCompletion) -> int:
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0


def total(answer: ChatCompletion) -> int:
    assert answer.usage is not None
    return answer.usage.total_tokens


async def test_a_conversation_goes_on_and_its_kv_is_found_up_to_the_answers_last_page(local: LocalCluster) -> None:
    before = await turn(local, "kitchen", "You are a cook.", "My name is Ada. What shall I cook tonight?")
    for question in ("And what goes with it?", "What is my name?", "Thank you. Good night!"):
        after = await turn(local, "kitchen", question)
        assert after.usage is not None
        assert found(after) >= (total(before) - 1) // PAGE * PAGE > 0
        assert after.usage.prompt_tokens > total(before)
        before = after


async def test_drawn_answers_of_odd_tokens_are_found_too(local: LocalCluster) -> None:
    """At a high temperature a model writes tokens that no tokenizer would cut its text into."""
    retokenized = 0
    for seed in range(4):
        before = await turn(local, f"odd-{seed}", "Write.", temperature=1.6, seed=seed, extra={"ignore_eos": True})
        after = await turn(local, f"odd-{seed}", "Go on.", max_tokens=4)
        answer = before.choices[0].message.content
        client = openai.AsyncOpenAI(base_url=f"{local.http}/v1", api_key="none")
        spelled = await client.completions.create(model=MODEL, prompt=answer or " ", max_tokens=1)
        assert spelled.usage is not None
        assert before.usage is not None
        retokenized += spelled.usage.prompt_tokens != before.usage.completion_tokens
        if "\ufffd" not in (answer or ""):
            assert found(after) >= (total(before) - 1) // PAGE * PAGE
    assert retokenized, "none of the answers was spelled oddly: the test shows nothing"


async def test_heartbeats_say_where_a_replicas_worker_is(local: LocalCluster) -> None:
    """Where another worker asks for the KV of a session that was served here."""
    table = await RouterStub(connect(local.directory.find("router"))).ListReplicas(router_pb2.ListReplicasRequest())
    (replica,) = table.replicas
    assert list(replica.state.worker_addresses) == [local.directory.find(f"worker-{MODEL}-0")]


async def test_the_command_line_lists_shows_and_deletes(local: LocalCluster) -> None:
    await turn(local, "a session/with a name", "Say [bold]hello[/bold].", max_tokens=4)
    runner = CliRunner()

    async def russet(*arguments: str) -> Any:
        return await asyncio.to_thread(runner.invoke, cli.app, ["sessions", *arguments, "--url", local.http])

    rows = json.loads((await russet("list", "--json")).output)
    assert rows[0]["id"] == "a session/with a name"
    assert (rows[0]["turns"], rows[0]["kv"]["tier"]) == (2, "memory")
    shown = (await russet("show", "a session/with a name")).output
    assert "Say [bold]hello[/bold]." in shown
    assert "in memory" in shown
    assert "Deleted" in (await russet("delete", "a session/with a name")).output
    again = await russet("delete", "a session/with a name")
    assert again.exit_code == 1
    assert "no session" in str(again.exception)
    assert "a session/with a name" not in (await russet("list")).output


async def test_a_session_goes_on_at_another_replica_with_the_kv_of_the_first(home: Any) -> None:
    async with LocalCluster(settings(home, models__0__replicas=2)) as cluster:
        story = "The lighthouse stands on the rock, and the keeper counts the ships. " * 20
        first = await turn(cluster, "story", f"{story} What does the keeper count?", max_tokens=16)
        served: str = first.russet["route"]["replica"]  # type: ignore[attr-defined]
        await kept(cluster, served, total(first) // PAGE * PAGE - PAGE)
        stub = SchedulerStub(connect(cluster.directory.find(f"scheduler-{served}")))
        await stub.Drain(scheduler_pb2.DrainRequest(timeout_s=5))
        second = await turn(cluster, "story", "And then?", max_tokens=16)
        extension: dict[str, Any] = second.russet  # type: ignore[attr-defined]
        assert extension["route"]["replica"] != served
        assert extension["session"]["turns"] == 2
        assert found(second) >= (total(first) - 1) // PAGE * PAGE - PAGE
        assert extension["kv"]["restored_tokens"] == found(second)


async def kept(cluster: LocalCluster, replica: str, tokens: int) -> None:
    """Return when so many tokens lie on the replica's disk, as its heartbeats tell."""
    router = RouterStub(connect(cluster.directory.find("router")))
    async with asyncio.timeout(20):
        while True:
            table = await router.ListReplicas(router_pb2.ListReplicasRequest())
            if any(
                each.state.replica_id == replica and each.state.load.kv_kept_tokens >= tokens for each in table.replicas
            ):
                return
            await asyncio.sleep(0.05)
