"""Migration: all of it arrives, an interrupted one resumes, and what does not agree is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.base.errors import Conflict, Internal, NotFound
from actors.memory.config import MemoryConfig
from actors.memory.edge import EdgeCollection
from actors.memory.migration import migrate, move
from actors.memory.ownership import Ownership
from actors.memory.store import Entry, Schema, Where
from cluster.cli import app
from protos.gen.documents_pb2 import FileRequest, PutFileRequest
from protos.gen.memory_pb2 import (
    AppendWitnessRequest,
    EmbedRequest,
    GetSessionRequest,
    Pattern,
    Policy,
    PutPatternsRequest,
    PutPolicyRequest,
    PutSessionRequest,
    SearchPoliciesRequest,
    Session,
    StatusRequest,
    Turn,
    VerifyWitnessRequest,
    WitnessEntry,
)
from tests.actors.memory.qdrant_stub import running

SCHEMA = Schema("things", 8, "e", keywords=("kind",), floats=("share",))


def quiet(done: int, total: int) -> None:
    """Nobody listens."""


def entries(count: int) -> list[Entry]:
    vectors = np.random.default_rng(0).normal(size=(count, 8))
    return [
        Entry(f"00000000-0000-0000-0000-{at:012d}", {"kind": "a", "share": at / 7}, vectors[at].tolist())
        if at % 3
        else Entry(f"00000000-0000-0000-0000-{at:012d}", {"kind": "none"})
        for at in range(count)
    ]


@pytest.fixture
def pair(directory: Path):
    source, target = (EdgeCollection(directory / name, SCHEMA) for name in ("from", "to"))
    yield source, target
    source.close()
    target.close()


def test_a_broken_off_migration_resumes_and_writes_only_what_is_missing(pair):
    source, target = pair
    source.upsert(entries(600))

    class Dies(Exception):
        pass

    def dies(done: int, total: int) -> None:
        if done >= 250:
            raise Dies

    with pytest.raises(Dies):
        migrate(source, target, dies)
    had = target.count()
    assert 0 < had < 600
    target.upsert([Entry(entries(1)[0].id, {"kind": "changed since"})])
    resumed = migrate(source, target, quiet)
    assert (resumed.entries, resumed.written) == (600, 600 - had + 1)
    again = migrate(source, target, quiet)
    assert (again.written, again.digest) == (0, resumed.digest)
    query = entries(2)[1].vector
    before, after = (things.search(query, 20, Where()) for things in (source, target))
    assert [entry.id for entry, _ in before] == [entry.id for entry, _ in after]
    assert [score for _, score in before] == pytest.approx([score for _, score in after], abs=1e-5)


def test_a_vector_that_differs_is_written_again(pair):
    source, target = pair
    source.upsert(entries(3))
    turned = entries(3)[1]
    migrate(source, target, quiet)
    target.upsert([Entry(turned.id, turned.payload, [-value for value in turned.vector])])
    assert migrate(source, target, quiet).written == 1


def test_a_target_with_entries_of_its_own_is_refused(pair):
    source, target = pair
    source.upsert(entries(2))
    target.upsert([Entry("00000000-0000-0000-0001-000000000000", {"kind": "other"})])
    with pytest.raises(Conflict, match=r"things: the target has 3 entries, 1 more than the source's 2"):
        migrate(source, target, quiet)


def test_a_target_that_keeps_something_else_is_found_out(pair, monkeypatch):
    source, target = pair
    source.upsert(entries(2))
    keep = target.upsert
    monkeypatch.setattr(target, "upsert", lambda some: keep([Entry(e.id, {"kind": "lost"}, e.vector) for e in some]))
    with pytest.raises(Internal, match=r"2 entries, first .* came back changed"):
        migrate(source, target, quiet)


async def test_a_memory_goes_on_in_the_other_store(opening, directory, embedder):
    """Sessions, the chain and policies, there and back, by the command; the chain's head is where it was."""
    with running() as stub:
        server = {"server_url": stub.url}
        async with opening() as memory:
            session = Session(session_id="s", tenant="t", turns=[Turn(role="user", content="hello")])
            await memory.stub.PutSession(PutSessionRequest(session=session))
            await memory.stub.AppendWitness(AppendWitnessRequest(entries=[WitnessEntry(id=f"r{n}") for n in range(5)]))
            vector = (await memory.stub.Embed(EmbedRequest(texts=["a rule"]))).values
            policy = Policy(id="p", type="pattern", source="manual", confidence=0.5, embedding=vector)
            await memory.stub.PutPolicy(PutPolicyRequest(policy=policy))
            pattern = Pattern(tenant="t", router="r", text="x", label="y", features=b"z")
            await memory.stub.PutPatterns(PutPatternsRequest(patterns=[pattern]))
            document = await memory.documents.PutFile(PutFileRequest(tenant="t", name="a.txt", content=b"text"))
        file = directory.parent / "russet.toml"
        file.write_text(f"[memory]\ndirectory = '{directory}'\nserver_url = '{stub.url}'\n")
        told = CliRunner().invoke(app, ["memory", "migrate", "--to", "server", "--config", str(file)])
        assert told.exit_code == 0, told.output
        assert 'Set memory.store = "server"' in told.output
        async with opening(store="server", **server) as memory:
            kept = await memory.stub.GetSession(GetSessionRequest(tenant="t", session_id="s"))
            assert kept.session.turns[0].content == "hello"
            assert (await memory.stub.Status(StatusRequest())).witness_entries == 5
            await memory.stub.AppendWitness(AppendWitnessRequest(entries=[WitnessEntry(id="r5")]))
            verified = await memory.stub.VerifyWitness(VerifyWitnessRequest())
            assert (verified.sound, verified.entries) == (True, 6)
            found = await memory.stub.SearchPolicies(SearchPoliciesRequest(type="pattern", embedding=vector))
            assert [each.policy.id for each in found.policies] == ["p"]
            assert found.policies[0].similarity == pytest.approx(1, abs=1e-5)
            read = await memory.documents.ReadFile(FileRequest(tenant="t", file_id=document.id))
            assert read.content == b"text"
        config = MemoryConfig.model_validate({"directory": directory, **server})
        back = move(config, "embedded", embedder.width, embedder.model, lambda name, done, total: None)
        assert [(each.name, each.entries, each.written) for each in back.collections] == [
            ("session", 1, 0),
            ("witness", 6, 1),
            ("policy", 1, 0),
            ("patterns", 1, 0),
            ("documents", 2, 0),
            ("graph", 0, 0),
            ("procedures", 0, 0),
        ]
        async with opening() as memory:
            assert (await memory.stub.VerifyWitness(VerifyWitnessRequest())).entries == 6


def test_a_running_memory_is_not_migrated(directory: Path):
    config = MemoryConfig(directory=directory, server_url="http://127.0.0.1:1")
    with pytest.raises(NotFound, match=f"{directory} does not exist"):
        move(config, "server", 8, "e", lambda name, done, total: None)
    directory.mkdir()
    held = Ownership(directory)
    with pytest.raises(Conflict, match="is in use by process"):
        move(config, "server", 8, "e", lambda name, done, total: None)
    held.release()
    assert json.dumps([path.name for path in directory.iterdir()]) == '["lock"]'
