"""Each option in a batch of 16 rows that ask for quite different things: what a row says is what it says alone.

A row of the table is a request. They are asked 16 at a time, in an order that puts unlike ones together, with nothing
cached and the engine held back until they are all there; then each by itself, where its prompt is found in the prefix
cache as far as it has whole pages. KV is held as f16, the only form that there is in deterministic mode.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from actors.base.channel import connect
from actors.worker.engine import Engine
from cluster.local import LocalCluster
from protos.gen import inference_pb2, scheduler_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
WIDTH, ASKED = 16, 20
STORY = "The keeper of the lighthouse counts the ships that pass the rock in the fog of the night. "
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 130}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHOICES = [f"{wind} of the rock, where the ships pass and the keeper looks out" for wind in ("north", "south", "east")]
LARK = 'start: NAME ("," NAME)*\nNAME: /[a-z]{2,8}/'
GBNF = 'root ::= item ("; " item)*\nitem ::= [A-Z] [a-z]+ " " [0-9]+'


class Row(NamedTuple):
    """A request: the path or the gRPC method, and what is asked beyond the defaults."""

    to: str
    ask: dict[str, Any]


def text(**ask: Any) -> Row:
    """A completion that goes on to its 48 tokens."""
    return Row("completions", {"ignore_eos": True} | ask)


def held(grammar: dict[str, Any], **ask: Any) -> Row:
    """A completion held to a grammar."""
    return Row("completions", {"russet": {"grammar": grammar}} | ask)


def chat(**ask: Any) -> Row:
    """An answer in a chat."""
    return Row("chat/completions", ask)


def call(method: str, sampling: dict[str, Any] | None = None, **ask: Any) -> Row:
    """The same over gRPC."""
    return Row(method, {"sampling": sampling or {}, **ask})


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "keep", "parameters": PERSON}}
OPENAIS = TOOL["function"] | {"type": "function"}
ANTHROPICS = {"name": "keep", "input_schema": PERSON}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
ROWS: dict[str, Row] = {
    "greedy": text(temperature=0),
    "another seed": text(seed=77),
    "a seed above 63 bits": call("Complete", {"seed": (1 << 64) - 3}, ignoreEos=True),
    "temperature": text(temperature=1.7),
    "top_k": text(top_k=5),
    "top_p": text(top_p=0.7),
    "min_p": text(min_p=0.1),
    "every sampler": text(temperature=0.8, top_k=40, top_p=0.9, min_p=0.02),
    "presence": text(presence_penalty=1.5),
    "frequency": text(frequency_penalty=-1.0),
    "repetition": text(repetition_penalty=1.4, temperature=0),
    "every penalty": text(presence_penalty=0.5, frequency_penalty=1.0, repetition_penalty=1.2, logprobs=2),
    "bias": text(logit_bias={"260": 6, "28": -100}, logprobs=1),
    "min_tokens": Row("completions", {"min_tokens": 20, "logit_bias": {"2": 9, "0": 9}}),
    "stop texts": text(stop=["the", ". ", ", and"]),
    "stop token ids": text(russet={"stop_token_ids": [28, 260, 30]}),
    "logprobs": text(logprobs=0),
    "logprobs of 20": text(logprobs=20, temperature=1.3),
    "prompt logprobs": text(logprobs=1, echo=True, max_tokens=40),
    "n": text(n=3, logprobs=0, max_tokens=40),
    "best_of": text(n=1, best_of=3, max_tokens=40),
    "healing": Row("completions", {"prompt": "The capital of France is Par", "russet": {"token_healing": True}}),
    "schema": chat(response_format=SCHEMA),
    "closed": chat(response_format={"type": "json_object"}, russet={"close": True}, max_tokens=64),
    "regex": held({"regex": "[A-Z][a-z]{2,9}( [a-z]{1,9}){3,6}\\."}),
    "choice": held({"choice": CHOICES}),
    "lark": held({"lark": LARK}, frequency_penalty=1.0),
    "gbnf": held({"gbnf": GBNF}, logprobs=2, temperature=0.7),
    "grammar and bias": held({"regex": "[a-z ]{200}"}, logit_bias={"260": 4}, top_k=30, seed=12),
    "chat, plain": chat(),
    "chat, logprobs": chat(logprobs=True, top_logprobs=3, temperature=0.4),
    "chat, penalties": chat(frequency_penalty=0.8, presence_penalty=0.3, logit_bias={"260": -5}),
    "a long prompt": text(prompt=STORY * 22, logprobs=3),
    "rpc chat": call("Chat", {"temperature": 0.9, "repetitionPenalty": 1.1}, logprobs=2),
    "rpc bias": call("Chat", {"logitBias": {"260": 5.0}}, minTokens=8),
    "rpc grammar": call("Complete", grammar={"choice": {"texts": CHOICES}}),
    "rpc penalties": call("Complete", {"presencePenalty": 1.0, "topK": 50}, stop=["."]),
    "a tool": chat(tools=[TOOL], tool_choice="required", logprobs=True),
    "tools as it likes": chat(tools=[TOOL], temperature=0.5),
    "rpc tool": Row("Chat", {"sampling": {}, "tool": "keep"}),
    "messages, tool": Row("messages", {"tools": [ANTHROPICS], "tool_choice": {"type": "any"}}),
    "responses, tool": Row("responses", {"store": False, "tools": [OPENAIS], "tool_choice": "required"}),
    "messages": Row("messages", {"stop_sequences": ["."], "top_k": 60}),
    "responses": Row("responses", {"store": False, "top_p": 0.8}),
}  # fmt: skip


async def said(http: httpx.AsyncClient, stub: InferenceStub, place: int, row: Row) -> Any:
    """What a client is told that is of the row: texts, log-probabilities, why it ended, tokens counted."""
    prompt, question = f"{place}. {STORY}Once upon a time there was", f"Tell me about the number {place}."
    if row.to[0].isupper():
        ask = {name: value for name, value in row.ask.items() if name != "tool"}
        decoding = {"maxTokens": 48, **ask, "sampling": {"temperature": 1, "seed": place + 1} | row.ask["sampling"]}
        if row.to == "Chat":
            chatting: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "decoding": decoding}
            if "tool" in row.ask:
                chatting["tools"] = [{"name": row.ask["tool"], "parameters": json.dumps(PERSON)}]
                chatting["toolChoice"] = {"name": row.ask["tool"]}
            answer = MessageToDict(await stub.Chat(ParseDict(chatting, inference_pb2.ChatRequest())))
        else:
            completing = {"text": prompt, "decoding": decoding}
            answer = MessageToDict(await stub.Complete(ParseDict(completing, inference_pb2.CompleteRequest())))
        return without_ids([answer.get(field) for field in TOLD])
    common = {"temperature": 1.0, "max_tokens": 48, "seed": place + 1}
    greedy = {"temperature": 0, "max_tokens": 48}  # this API has no seed, nor has the next
    chatting = {"messages": [{"role": "user", "content": question}]}
    bodies = {
        "completions": {"prompt": prompt} | common,
        "chat/completions": chatting | common,
        "messages": chatting | greedy,
        "responses": {"input": question, "temperature": 0, "max_output_tokens": 48},
    }
    reply = await http.post(f"/v1/{row.to}", json=bodies[row.to] | row.ask)
    assert reply.status_code == 200, (row, reply.text)
    answer = reply.json()
    if row.to == "responses":
        return without_ids(answer["output"]), answer["status"], answer["usage"]["output_tokens"]
    if row.to == "messages":
        return without_ids(answer["content"]), answer["stop_reason"], answer["usage"]["output_tokens"]
    return without_ids(answer["choices"]), answer["usage"]["completion_tokens"]


TOLD = ("text", "finishReason", "logprobs", "others", "toolCalls")


def without_ids(value: Any) -> Any:
    """Without what is drawn anew for each answer: the ids of calls and items. (A token's id is a number.)"""
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: each for name, each in value.items() if name not in ("id", "call_id") or isinstance(each, int)}
    return {name: without_ids(each) for name, each in kept.items()}


def batches() -> list[list[str]]:
    """Names of all rows, 20 at a time; those that stand together in the table come apart. The last is filled up."""
    names = list(ROWS)
    count = -(-len(names) // ASKED)
    dealt = [names[first::count] for first in range(count)]
    return [each + [name for name in names if name not in each][: ASKED - len(each)] for each in dealt]


def rows_of(name: str) -> int:
    """Rows of the batch that it takes."""
    ask = ROWS[name].ask
    return max(ask.get("n", 1), ask.get("best_of", 1))


class Gate:
    """Holds the engine back until so many rows are there, so that they are one batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stub: SchedulerStub) -> None:
        self._stub = stub
        self._open = threading.Event()
        self.widest = 0
        """Most rows of the batch so far."""
        tick = Engine.tick

        def held(engine: Engine) -> bool:
            assert self._open.wait(60)
            ran = tick(engine)
            self.widest = max(self.widest, len(engine._rows.slot_of))
            return ran

        monkeypatch.setattr(Engine, "tick", held)

    async def until(self, count: int) -> None:
        """Close it, and open it once so many are there."""
        self._open.clear()
        async with asyncio.timeout(60):
            while True:
                load = (await self._stub.Describe(scheduler_pb2.DescribeRequest())).load
                if load.running + load.waiting == count:
                    break
                await asyncio.sleep(0)
        self._open.set()


async def test_each_option_says_in_a_mixed_batch_of_16_what_it_says_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LocalCluster(settings(home, models__0__kv_memory_bytes=600 * 16 * 23040)) as cluster:
        channel = connect(f"tcp:{cluster.grpc}")
        gate = Gate(monkeypatch, SchedulerStub(connect(cluster.directory.find("scheduler-smollm2-135m-instruct-0"))))
        stub, places = InferenceStub(channel), {name: place for place, name in enumerate(ROWS)}
        async with httpx.AsyncClient(base_url=cluster.http, timeout=240) as http:

            async def asked(name: str) -> Any:
                return await said(http, stub, places[name], ROWS[name])

            mixed: dict[str, Any] = {}
            for batch in batches():
                gate.widest = 0
                answers, _ = await asyncio.gather(
                    asyncio.gather(*map(asked, batch)), gate.until(sum(map(rows_of, batch)))
                )
                assert gate.widest >= WIDTH
                mixed |= {name: answer for name, answer in zip(batch, answers, strict=True) if name not in mixed}
            alone = {name: await asked(name) for name in ROWS}
        await channel.close()
    different = {name: (mixed[name], alone[name]) for name in ROWS if mixed[name] != alone[name]}
    assert not different
