"""Both stores keep one contract: the embedded one, and a Qdrant server behind real HTTP."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.memory.config import MemoryConfig
from actors.memory.store import Entry, Schema, Store, Where
from actors.memory.stores import open_store, schemas
from tests.actors.memory.qdrant_stub import running

SCHEMA = Schema("things", 8, "all-MiniLM-L6-v2", keywords=("kind",), integers=("at",), floats=("share",))
Opening = Callable[[], Store]


def entry(at: int, vector: list[float] | None = None, **more) -> Entry:
    identity = f"00000000-0000-0000-0000-{at:012d}"
    return Entry(identity, {"kind": "odd" if at % 2 else "even", "at": at, "share": at / 10} | more, vector)


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A real server where QDRANT_URL names one, else the client's in-memory mode behind HTTP."""
    if url := os.environ.get("QDRANT_URL"):
        yield url
        return
    with running() as stub:
        yield stub.url


@pytest.fixture(params=["embedded", "server"])
def opening(request: pytest.FixtureRequest, directory: Path, server_url: str) -> Iterator[Opening]:
    """Opens the same store again and again; it begins empty."""
    config = MemoryConfig(directory=directory, server_url=server_url, server_prefix=f"t{uuid4().hex[:12]}")
    opened: list[Store] = []

    def open_() -> Store:
        opened.append(open_store(config, request.param))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


def test_finds_what_it_was_given_and_still_does_when_opened_again(opening: Opening):
    things = opening().collection(SCHEMA)
    north, east = np.eye(8)[0].tolist(), np.eye(8)[1].tolist()
    things.upsert([entry(at) for at in range(6)])
    things.upsert([entry(6, north), entry(7, [3 * (a + b) for a, b in zip(north, east, strict=True)])])
    assert things.count() == 8
    assert [each.payload["at"] for each in things.scan(Where({"kind": "odd"}), 2, "at")] == [7, 5]
    assert [each.payload["at"] for each in things.scan(Where(), 2, "at", descending=False)] == [0, 1]
    assert [each.payload["at"] for each in things.scan(Where(between={"share": (0.1, 0.3)}), 9, "at")] == [3, 2, 1]
    assert [each.payload["at"] for each in things.scan(Where(between={"at": (5, None)}), 9, "at")] == [7, 6, 5]
    assert [each.id for each in things.get([entry(2).id, entry(99).id])] == [entry(2).id]
    assert things.get([]) == []
    found = [(each.payload["at"], round(score, 5)) for each, score in things.search(north, 5, Where())]
    assert found == [(6, 1.0), (7, 0.70711)]
    assert [each.payload["at"] for each, _ in things.search(north, 5, Where({"kind": "odd"}))] == [7]
    assert [each.payload["at"] for each, _ in things.search(north, 1, Where())] == [6]
    things.upsert([entry(6, east, kind="changed")])
    assert things.get([entry(6).id])[0].payload["kind"] == "changed"
    things.delete([entry(2).id, entry(99).id])
    things.delete([])
    things.close()
    again = opening().collection(SCHEMA)
    assert again.count() == 7
    assert sorted(each.payload["at"] for page in again.pages(Where()) for each in page) == [0, 1, 3, 4, 5, 6, 7]
    assert [each.payload["at"] for page in again.pages(Where({"kind": "even"})) for each in page] == [0, 4]
    again.close()


def test_gives_vectors_of_length_one_only_where_asked_for(opening: Opening):
    things = opening().collection(SCHEMA)
    vector = np.arange(1.0, 9).tolist()
    things.upsert([entry(1, vector), entry(2)])
    unit = np.array(vector) / np.linalg.norm(vector)
    assert [each.vector for each in things.get([entry(1).id])] == [None]
    assert [each.vector for page in things.pages(Where()) for each in page] == [None, None]
    by_id = {each.id: each.vector for each in things.get([entry(1).id, entry(2).id], vectors=True)}
    assert by_id == {each.id: each.vector for page in things.pages(Where(), vectors=True) for each in page}
    assert by_id[entry(2).id] is None
    np.testing.assert_allclose(by_id[entry(1).id], unit, atol=1e-6)
    things.close()


def test_pages_give_each_entry_once_past_a_page(opening: Opening):
    things = opening().collection(SCHEMA)
    things.upsert([entry(at) for at in range(613)])
    pages = [[each.payload["at"] for each in page] for page in things.pages(Where())]
    assert sorted(at for page in pages for at in page) == list(range(613))
    assert len(pages) > 1
    things.close()


def test_a_vector_of_another_width_is_refused_and_nothing_is_written(opening: Opening):
    things = opening().collection(SCHEMA)
    for width in (7, 0):
        with pytest.raises(InvalidArgument, match=f"width {width} .*things.* 8"):
            things.upsert([entry(1), Entry(entry(2).id, {}, [0.5] * width)])
        with pytest.raises(InvalidArgument, match=f"width {width} .*things.* 8"):
            things.search([0.5] * width, 1, Where())
    assert things.count() == 0
    things.close()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Schema("things", 16, "all-MiniLM-L6-v2"), r"'width': 8.*'width': 16"),
        (Schema("things", 8, "bge-small"), r"all-MiniLM-L6-v2.*bge-small"),
    ],
)
def test_another_width_or_embedder_is_refused_naming_both(opening: Opening, other: Schema, named: str):
    opening().collection(SCHEMA).close()
    with pytest.raises(InvalidArgument, match=named):
        opening().collection(other)
    opening().collection(SCHEMA).close()


def test_scans_as_a_plain_list_would(opening: Opening):
    draw = np.random.default_rng(4)
    rows = [("ab"[draw.integers(2)], int(draw.integers(-(2**40), 2**40))) for _ in range(60)]
    things = opening().collection(SCHEMA)
    ids = [entry(number).id for number in range(len(rows))]
    things.upsert([Entry(id_, {"kind": kind, "at": at}) for id_, (kind, at) in zip(ids, rows, strict=True)])
    for kind, least in [("a", rows[0][1]), ("b", rows[1][1]), ("a", 2**41), ("b", -(2**41))]:
        expected = sorted((at for own, at in rows if own == kind and at >= least), reverse=True)
        for limit in (1, 5, 100):
            found = things.scan(Where({"kind": kind}, {"at": (least, None)}), limit, "at")
            assert [each.payload["at"] for each in found] == expected[:limit]
    things.close()


def test_every_collection_of_memory_opens_in_either(opening: Opening):
    store = opening()
    opened = [store.collection(schema) for schema in schemas(384, "all-MiniLM-L6-v2")]
    assert [each.schema.name for each in opened] == [
        "session",
        "witness",
        "policy",
        "patterns",
        "documents",
        "graph",
        "procedures",
    ]
    for each in opened:
        each.close()
