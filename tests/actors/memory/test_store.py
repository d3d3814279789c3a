"""What memory refuses to open, and how it says so; the embedder behind it."""

import asyncio
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from actors.base.errors import Conflict, InvalidArgument
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.edge import EdgeCollection
from actors.memory.embedder import Embedder
from actors.memory.service import MemoryService
from actors.memory.store import Entry, Schema, Where
from protos.gen.memory_pb2 import EmbedRequest, StatusRequest

SCHEMA = Schema("things", 8, "all-MiniLM-L6-v2", keywords=("kind",), integers=("at",), floats=("share",))


def entry(at: int, **more) -> Entry:
    identity = f"00000000-0000-0000-0000-{at:012d}"
    return Entry(identity, {"kind": "odd" if at % 2 else "even", "at": at, "share": at / 10} | more)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Schema("things", 16, "all-MiniLM-L6-v2"), r"'width': 8.*'width': 16"),
        (Schema("things", 8, "bge-small"), r"all-MiniLM-L6-v2.*bge-small"),
    ],
)
def test_another_width_or_embedder_is_refused_naming_both(directory, other, named):
    EdgeCollection(directory, SCHEMA).close()
    with pytest.raises(InvalidArgument, match=named):
        EdgeCollection(directory, other)
    EdgeCollection(directory, SCHEMA).close()


def test_collection_finds_what_it_was_given(directory):
    things = EdgeCollection(directory, SCHEMA)
    vector = np.eye(8)[0].tolist()
    things.upsert([entry(at) for at in range(6)])
    things.upsert([Entry(entry(6).id, {"kind": "even", "at": 6}, vector)])
    assert things.count() == 7
    assert [each.payload["at"] for each in things.scan(Where({"kind": "odd"}), 2, "at")] == [5, 3]
    assert [each.payload["at"] for each in things.scan(Where(between={"share": (0.1, 0.3)}), 9, "at")] == [3, 2, 1]
    assert [each.id for each in things.get([entry(2).id, entry(99).id])] == [entry(2).id]
    assert [(found.payload["at"], score) for found, score in things.search(vector, 5, Where())] == [(6, 1.0)]
    things.delete([entry(2).id, entry(99).id])
    assert sorted(each.payload["at"] for page in things.pages(Where()) for each in page) == [0, 1, 3, 4, 5, 6]
    for width in (7, 0):
        with pytest.raises(InvalidArgument, match=f"width {width} .*things.* 8"):
            things.upsert([Entry(entry(1).id, {}, [0.5] * width)])
        with pytest.raises(InvalidArgument, match=f"width {width} .*things.* 8"):
            things.search([0.5] * width, 1, Where())
    things.close()
    again = EdgeCollection(directory, SCHEMA)
    assert again.count() == 6
    again.close()


def _identity(path: Path) -> None:
    (path / "identity.json").write_text("{")


def _no_identity(path: Path) -> None:
    (path / "identity.json").unlink()


def _empty(path: Path) -> None:
    for file in sorted((path / "shard").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


def _truncated(path: Path) -> None:
    os.truncate(path / "shard" / "edge_config.json", 3)
    for file in (path / "shard").rglob("segment.json"):
        os.truncate(file, 3)


@pytest.mark.parametrize("damage", [_identity, _no_identity, _empty, _truncated], ids=lambda f: f.__name__[1:])
def test_damage_is_named_with_what_to_do(directory, damage):
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(1)])
    things.close()
    damage(directory / "things")
    with pytest.raises(InvalidArgument, match=rf"{directory}/things.*(restore it, or move)"):
        EdgeCollection(directory, SCHEMA)


def test_a_creation_that_was_killed_is_begun_again(directory):
    path = directory / "things"
    (path / "shard.new" / "segments").mkdir(parents=True)
    (path / "identity.json").write_text(json.dumps({"width": 8, "embedder": "all-MiniLM-L6-v2", "metric": "cosine"}))
    things = EdgeCollection(directory, SCHEMA)
    assert things.count() == 0
    things.close()


SECOND = """
import asyncio, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from actors.base.errors import Conflict
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.service import MemoryService

directory = Path(sys.argv[1])
service = MemoryService(MemoryConfig(directory=directory, key_file=directory.parent / "cluster.key"), Telemetry("m"))
try:
    asyncio.run(service.start())
except Conflict as error:
    print(error)
"""


async def test_a_second_process_is_refused_and_harms_nothing(opening, directory):
    """It names who holds the directory, and leaves the first one's hot tier running."""
    async with opening() as memory:
        valkey = memory.valkey.pid
        program = SECOND.format(repository=str(Path(__file__).parents[3]))
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(directory), stdout=asyncio.subprocess.PIPE
        )
        said = (await second.communicate())[0].decode()
        assert f"{directory} is in use by process {os.getpid()}; stop it, or use another memory.directory" in said
        with pytest.raises(Conflict, match="is in use by process"):
            await opening().__aenter__()
        assert memory.valkey.pid == valkey
        assert (await memory.stub.Status(StatusRequest())).width == 384


async def test_a_start_that_failed_can_be_repeated(opening, directory):
    """Whatever had opened before the fault is closed again: no lock held, no server left."""
    async with opening():
        pass
    identity = directory / "policy" / "identity.json"
    kept = identity.read_bytes()
    identity.write_bytes(b"{")
    with pytest.raises(InvalidArgument, match=r"identity\.json is damaged"):
        await opening().__aenter__()
    identity.write_bytes(kept)
    async with opening() as memory:
        assert (await memory.stub.Status(StatusRequest())).policies == 0


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_embed(opening, transport):
    async with opening(transport) as memory:
        texts = ["a cat sleeps", "a kitten naps", "interest rates rose", *("filler " * at for at in range(1, 40))]
        reply = await memory.stub.Embed(EmbedRequest(texts=texts))
        vectors = np.array(reply.values, np.float32).reshape(len(texts), reply.width)
        assert (reply.model, reply.width) == ("all-MiniLM-L6-v2", 384)
        assert reply.prompt_tokens > len(texts) * 3
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        alone = np.array((await memory.stub.Embed(EmbedRequest(texts=texts[20:21]))).values, np.float32)
        assert np.allclose(vectors[20], alone, atol=2e-6), "each in its own place, whatever it was batched with"
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
        assert len((await memory.stub.Embed(EmbedRequest())).values) == 0
        with pytest.raises(InvalidArgument, match="2049 texts to embed; at most 2048"):
            await memory.stub.Embed(EmbedRequest(texts=["x"] * 2049))


def test_an_embedder_that_is_not_there_is_named(directory):
    with pytest.raises(InvalidArgument, match=rf"{directory} has no config\.json.*memory\.embedder"):
        Embedder(directory)
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (directory / name).write_text("{}")
    with pytest.raises(InvalidArgument, match=r"no sentence encoder in .*memory\.embedder"):
        Embedder(directory)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"hot_url": "http://localhost"}, "hot_url"),
        ({"session_idle_s": 0}, "session_idle_s"),
        ({"session_bytes": 1 << 40}, "session_bytes"),
        ({"witness_batch": 0}, "witness_batch"),
        ({"witness_bacth": 100}, "witness_bacth"),
    ],
)
def test_a_wrong_setting_is_named(broken, named):
    with pytest.raises(ValidationError, match=named):
        MemoryConfig.model_validate(broken)


@pytest.mark.parametrize("missing", ["directory", "key_file"])
def test_a_missing_place_is_named(directory, missing):
    places = {"directory": directory, "key_file": directory / "key"}
    del places[missing]
    with pytest.raises(InvalidArgument, match=rf"memory\.{missing} is not set"):
        MemoryService(MemoryConfig.model_validate(places), Telemetry("memory"))
