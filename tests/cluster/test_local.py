"""The whole system in one process, on the real model, used as clients use it."""

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, NotFound
from cluster.config import Config, ModelConfig
from cluster.local import LocalCluster
from protos.gen import inference_pb2, learner_pb2, memory_pb2, scheduler_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def client(local: LocalCluster) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{local.http}/v1", api_key="none", max_retries=0)


async def idle(local: LocalCluster) -> scheduler_pb2.CheckReply:
    """The scheduler's pools once no sequence is left; waits for the ones that are ending."""
    stub = SchedulerStub(connect(local.directory.find(f"scheduler-{MODEL}-0")))
    for _ in range(200):
        check = await stub.Check(scheduler_pb2.CheckRequest())
        if not check.live_sequences and not check.pages_used:
            break
        await asyncio.sleep(0.02)
    return check


async def test_the_capital_of_france(local: LocalCluster) -> None:
    answer = await client(local).chat.completions.create(model=MODEL, messages=FRANCE, temperature=0, max_tokens=32)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 37


async def test_streamed_equals_whole_over_http_and_grpc(local: LocalCluster) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": FRANCE, "temperature": 1.0, "seed": 11, "max_tokens": 24}
    whole = (await client(local).chat.completions.create(**request)).choices[0].message.content
    parts = []
    async for chunk in await client(local).chat.completions.create(**request, stream=True):
        parts += [choice.delta.content or "" for choice in chunk.choices]
    channel = connect(f"tcp:{local.grpc}")
    chat = inference_pb2.ChatRequest(
        model=MODEL,
        messages=[inference_pb2.Message(**FRANCE[0])],
        decoding=inference_pb2.Decoding(sampling=inference_pb2.Sampling(temperature=1.0, seed=11), max_tokens=24),
    )
    answer = await InferenceStub(channel).Chat(chat)
    deltas = [chunk.delta async for chunk in InferenceStub(channel).ChatStream(chat)]
    await channel.close()
    assert whole == "".join(parts) == answer.text == "".join(deltas)


async def test_the_same_answer_alone_and_among_fifteen_others(local: LocalCluster) -> None:
    async def answer(prompt: str) -> str:
        completion = await client(local).completions.create(
            model=MODEL, prompt=prompt, temperature=0, max_tokens=40, extra_body={"ignore_eos": True}
        )
        return completion.choices[0].text

    prompt = "Once upon a time there was a fox who lived at the edge of a great forest, and"
    alone = await answer(prompt)
    # Longer than a step's token budget together, so that prompts are chunked beside rows that decode.
    others = [f"Story number {index}. " + "The river ran on past the mill. " * (5 + 3 * index) for index in range(15)]
    together = await asyncio.gather(answer(prompt), *(answer(other) for other in others))
    assert together[0] == alone
    assert len(together) == 16
    assert all(together)


async def test_preempted_requests_end_with_the_same_text(home: Any) -> None:
    from tests.conftest import settings

    # 40 pages of 16 tokens: four of these requests do not fit together.
    config = settings(home, models__0__kv_memory_bytes=40 * 16 * 23040)
    async with LocalCluster(config) as tight:

        async def answer(index: int) -> str:
            completion = await client(tight).completions.create(
                model=MODEL,
                prompt=f"Chapter {index}. " * 30,
                temperature=0,
                max_tokens=80,
                extra_body={"ignore_eos": True},
            )
            return completion.choices[0].text

        alone = [await answer(index) for index in range(4)]
        together = await asyncio.gather(*(answer(index) for index in range(4)))
        metrics = (await httpx.AsyncClient().get(f"{tight.http}/metrics")).text
        assert together == alone
        assert preemptions(metrics) > 0
        assert not (await idle(tight)).problems


def preemptions(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_preemptions_total{")]
    return sum(float(line.split()[-1]) for line in lines)


async def test_a_client_that_vanishes_leaves_nothing_running(local: LocalCluster) -> None:
    body = {"model": MODEL, "prompt": "Count: one, two,", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    async with (
        httpx.AsyncClient() as http,
        http.stream("POST", f"{local.http}/v1/completions", json=body) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                break
    check = await idle(local)
    assert (check.live_sequences, check.pages_used, list(check.problems)) == (0, 0, [])


async def test_remembers_what_happened(local: LocalCluster) -> None:
    answer = await client(local).chat.completions.create(
        model=MODEL, messages=FRANCE, temperature=0, max_tokens=16, extra_body={"russet": {"session_id": "france"}}
    )
    learner = local.service("learner").service
    stub = MemoryStub(connect(local.directory.find("memory")))
    query = memory_pb2.QueryWitnessRequest(id=answer.id)
    for _ in range(300):
        records = (await stub.QueryWitness(query)).records
        status = await learner.Status(learner_pb2.StatusRequest(), None)
        if records and status.recorded:
            break
        await asyncio.sleep(0.02)
    entry = records[0].entry
    assert (entry.model, entry.finish, entry.usage.completion_tokens) == (MODEL, "stop", answer.usage.completion_tokens)
    assert entry.latency.total_ms > 0
    assert "Paris" not in str(entry)
    session = await stub.GetSession(memory_pb2.GetSessionRequest(session_id="france"))
    assert [turn.role for turn in session.session.turns] == ["user", "assistant"]
    assert (await stub.VerifyWitness(memory_pb2.VerifyWitnessRequest())).sound
    found = await httpx.AsyncClient().post(f"{local.http}/v1/feedback", json={"response_id": answer.id, "rating": 1})
    assert found.status_code == 200
    assert learner.ring.get(answer.id).rating == 1


async def test_embeddings_models_health_and_metrics(local: LocalCluster) -> None:
    texts = ["A cat sat on the mat.", "A kitten rested on the rug.", "Interest rates rose again."]
    vectors = (await client(local).embeddings.create(model="all-MiniLM-L6-v2", input=texts)).data
    first, second, third = (vector.embedding for vector in vectors)
    near = sum(a * b for a, b in zip(first, second, strict=True))
    far = sum(a * b for a, b in zip(first, third, strict=True))
    assert near > far + 0.2
    models = [model.id async for model in client(local).models.list()]
    fast = ["wordllama-l2-supercat-256"] if find_spec("wordllama") else []
    assert models == [MODEL, "all-MiniLM-L6-v2", *fast]
    for name in fast:
        cut = (await client(local).embeddings.create(model=name, input=texts, dimensions=64)).data
        assert [len(vector.embedding) for vector in cut] == [64] * 3
        with pytest.raises(openai.BadRequestError, match=r"accepted of wordllama.*: 64, 128, 256"):
            await client(local).embeddings.create(model=name, input=texts, dimensions=65)
    async with httpx.AsyncClient(base_url=local.http) as http:
        assert (await http.get("/health")).json()["status"] == "ok"
        assert (await http.get("/ready")).status_code == 200
        text = (await http.get("/metrics")).text
    for name in (
        "vllm:num_requests_running",
        "vllm:generation_tokens_total",
        "russet_worker_gap_seconds_count",
        "russet_up",
    ):
        assert name in text


async def test_refusals_come_from_the_model_itself(local: LocalCluster) -> None:
    with pytest.raises(openai.NotFoundError, match="nonesuch"):
        await client(local).chat.completions.create(model="nonesuch", messages=FRANCE)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="9001 tokens"):
        await client(local).completions.create(model=MODEL, prompt="word " * 9000, max_tokens=1)
    stub = InferenceStub(connect(f"tcp:{local.grpc}"))
    with pytest.raises(NotFound, match="nonesuch"):
        await stub.Chat(inference_pb2.ChatRequest(model="nonesuch", messages=[inference_pb2.Message(**FRANCE[0])]))
    with pytest.raises(InvalidArgument, match="messages"):
        await stub.Chat(inference_pb2.ChatRequest(model=MODEL))


async def test_models_of_one_process_share_an_instruction_set() -> None:
    models = (ModelConfig(isa="scalar"), ModelConfig(model_id="other"))
    with pytest.raises(InvalidArgument, match="instruction sets auto, scalar; one process uses one"):
        LocalCluster(Config(models=models))


async def test_replicas_that_follow_the_load_are_refused_where_they_would_share_one_process(home: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"max_replicas = 2 of smollm2-135m-instruct.*russet up"):
        LocalCluster(settings(home, models__0__max_replicas=2))
