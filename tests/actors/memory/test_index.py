"""The index finds what comparing every vector finds, through every change, restart and kill."""

import asyncio
import shutil
import sys
import tempfile
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.base.errors import Internal
from actors.memory import edge, index, index_file
from actors.memory.edge import EdgeCollection
from actors.memory.store import Entry, Schema, Where

WIDTH = 48
SCHEMA = Schema("things", WIDTH, "e", keywords=("kind", "tenant"), integers=("at",), floats=("share",))


def id_of(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


def entry(number: int, seed: int, fields: dict) -> Entry:
    return Entry(id_of(number), fields, None if seed % 7 == 6 else vector(seed).tolist())


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["a", "b", "naïve"]),
        "tenant": st.sampled_from(["", "t1", "t2"]),
        "at": st.integers(-3, 3),
        "share": st.floats(0, 1, width=16),
        "other": st.just("x"),
    },
)
UPSERT = st.tuples(st.just("upsert"), st.lists(st.tuples(st.integers(0, 14), st.integers(0, 99), FIELDS), max_size=6))
DELETE = st.tuples(st.just("delete"), st.lists(st.integers(0, 14), max_size=4))
RESTART = st.tuples(st.sampled_from(["restart", "kill"]), st.none())
BOUND = st.none() | st.floats(-4, 4)
WHERE = st.builds(
    Where,
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from(["a", "b", "naïve", "c"]),
            "tenant": st.sampled_from(["", "t1"]),
            "at": st.integers(-3, 3),
            "other": st.just("x"),
        },
    ),
    st.fixed_dictionaries({}, optional={"at": st.tuples(BOUND, BOUND), "share": st.tuples(BOUND, BOUND)}),
)


def exact(there: dict[str, Entry], query: np.ndarray, where: Where) -> dict[str, float]:
    """Cosines of all that may be found."""
    found = {}
    for each in there.values():
        fits = all(each.payload.get(name) == value for name, value in where.equals.items())
        for name, (low, high) in where.between.items():
            value = each.payload.get(name)
            fits &= value is not None and (low is None or value >= low) and (high is None or value <= high)
        if each.vector is not None and fits:
            own = np.array(each.vector)
            found[each.id] = float(own @ query / np.linalg.norm(own) / np.linalg.norm(query))
    return found


def killed(directory: Path) -> Path:
    """What a process that is killed now leaves, beside what it has."""
    left = directory.with_name(f"{directory.name}k")
    shutil.copytree(directory, left)
    return left


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(UPSERT | UPSERT | DELETE | RESTART, max_size=7), WHERE, st.integers(1, 20), st.integers(0, 9))
def test_finds_what_comparing_every_vector_finds(changes, where, limit, seed):
    """After any inserts, replacements, deletions and restarts, with any filter, in either way of opening."""
    with tempfile.TemporaryDirectory(dir="/tmp") as outer:
        directory = Path(outer) / "0"
        things = EdgeCollection(directory, SCHEMA)
        there: dict[str, Entry] = {}
        for change, what in changes:
            if change == "upsert":
                entries = [entry(*each) for each in what]
                things.upsert(entries)
                there |= {each.id: each for each in entries}
            elif change == "delete":
                things.delete([id_of(number) for number in what])
                there = {key: each for key, each in there.items() if key not in set(map(id_of, what))}
            else:
                if change == "kill":
                    directory = killed(directory)
                things.close()
                things = EdgeCollection(directory, SCHEMA)
        query = vector(1000 + seed)
        found = things.search(query.tolist(), limit, where)
        things.close()
    expected = exact(there, query, where)
    assert len(found) == min(limit, len(expected))
    for each, score in found:
        assert expected[each.id] == pytest.approx(score, abs=2e-5)
        assert each.payload == there[each.id].payload
    scores = [score for _, score in found]
    best = sorted(expected.values(), reverse=True)[: len(found)]
    np.testing.assert_allclose(scores, best, atol=2e-5, err_msg="nearest first, and none nearer left out")


@pytest.mark.parametrize("width", [WIDTH, 300], ids=["all bits at once", "after a first look"])
def test_among_many_rows_it_finds_the_nearest_by_their_bits(width):
    """Past CANDIDATES rows, only those that are close by bits are compared; near ones always are."""
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(20 * index.CANDIDATES, width)).astype(np.float32)
    near = draw.choice(len(rows), 40, replace=False)
    query = draw.normal(size=width).astype(np.float32)
    rows[near] = query + 0.6 * draw.normal(size=(40, width))
    many = index.VectorIndex(Schema(**{**vars(SCHEMA), "width": width}))
    many.put([Entry(id_of(at), {"kind": "ab"[at % 2]}, row.tolist()) for at, row in enumerate(rows)])
    for where, allowed in ((Where(), near), (Where({"kind": "a"}), near[near % 2 == 0])):
        found = many.nearest(query.tolist(), 10, where)
        cosines = rows[allowed] @ query / np.linalg.norm(rows[allowed], axis=1)
        assert [id_ for id_, _ in found] == [id_of(at) for at in allowed[np.argsort(-cosines)[:10]]]


def test_entries_that_are_all_alike_cost_no_more_than_others(monkeypatch):
    many = index.VectorIndex(SCHEMA)
    many.put([Entry(id_of(at), {}, vector(1).tolist()) for at in range(3 * index.CANDIDATES)])
    compared = []
    plain = index.cosines
    monkeypatch.setattr(index, "cosines", lambda codes, *rest: compared.append(len(codes)) or plain(codes, *rest))
    assert len(many.nearest(vector(1).tolist(), 5, Where())) == 5
    assert compared == [index.CANDIDATES]


def found_in(things: EdgeCollection, where: Where | None = None) -> list[str]:
    return sorted(each.id for each, _ in things.search(vector(7).tolist(), 99, where or Where()))


def test_a_damaged_or_foreign_file_of_the_index_is_left_aside(directory, caplog):
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(at, 7 * at, {"kind": "a"}) for at in range(5)])
    things.close()
    file = directory / "things" / "index.rows"
    whole = file.read_bytes()
    for content in (whole[:-40], whole[: len(whole) // 2], whole[:20], b"", b"not an index\n" + whole):
        file.write_bytes(content)
        things = EdgeCollection(directory, SCHEMA)
        assert len(found_in(things, Where({"kind": "a"}))) == 5
        assert "reading the vectors instead" in caplog.text
        caplog.clear()
        things.close()
    other = Schema(**{**vars(SCHEMA), "keywords": ("kind", "colour")})
    things = EdgeCollection(directory, other)
    assert found_in(things, Where({"colour": "red"})) == []
    assert "is of other fields" in caplog.text
    things.close()


def test_a_file_that_misses_entries_is_left_aside(directory, caplog):
    """As where a process of before wrote to the store after the file."""
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(1, 1, {})])
    things.close()
    file = directory / "things" / "index.rows"
    old = file.read_bytes()
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(2, 2, {})])
    things.close()
    file.write_bytes(old)
    things = EdgeCollection(directory, SCHEMA)
    assert len(found_in(things)) == 2
    assert "has 1 entries of 2" in caplog.text
    things.close()


def test_a_kill_between_the_file_and_the_store_leaves_what_the_store_has(directory, caplog):
    """One entry new, one changed, one removed, all of which the store never came to know."""
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(at, 7 * at, {"kind": "a"}) for at in range(3)])
    records = [things._index.changes([entry(3, 7, {"kind": "a"}), entry(1, 700, {"kind": "b"})])]
    for each in (*records, things._index.removals([id_of(2)])):
        things._file.add(each)
    left = killed(directory)
    things.close()
    things = EdgeCollection(left, SCHEMA)
    assert found_in(things, Where({"kind": "a"})) == [id_of(at) for at in range(3)]
    best, score = things.search(vector(7).tolist(), 1, Where())[0]
    assert (best.id, round(score, 4)) == (id_of(1), 1.0), "the vector that is stored, not the one that was to be"
    assert caplog.text == "", "without reading all of them again"
    things.close()


def test_a_start_after_a_kill_reads_no_vectors_but_the_last(directory, monkeypatch):
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(at, 7 * at, {}) for at in range(300)])
    left = killed(directory)
    things.close()
    monkeypatch.setattr(EdgeCollection, "pages", None)
    things = EdgeCollection(left, SCHEMA)
    assert len(things.search(vector(1).tolist(), 300, Where())) == 300
    things.close()


def test_after_the_machine_ended_the_store_alone_is_believed(directory, monkeypatch, caplog):
    """Of a file that was never synced some parts may be on disk and others not."""
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(1, 7, {})])
    left = killed(directory)
    things.close()
    monkeypatch.setattr(index_file, "_boot", lambda: "another")
    for where, said in ((left, "the machine ended before it was closed"), (directory, "")):
        things = EdgeCollection(where, SCHEMA)
        assert len(found_in(things)) == 1
        assert said in caplog.text
        things.close()
        caplog.clear()


WRITER = """
import sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from actors.memory.edge import EdgeCollection
from tests.actors.memory.test_index import SCHEMA, entry, id_of

things = EdgeCollection(Path(sys.argv[1]), SCHEMA)
for start in range(0, 1_000_000, 100):
    things.upsert([entry(at, 7 * at, {{"at": at}}) for at in range(start, start + 100)])
    things.upsert([entry(at, 7 * at + 1, {{"at": at}}) for at in range(start, start + 20)])
    things.delete([id_of(at) for at in range(start + 20, start + 40)])
    print(start, flush=True)
"""


async def test_killed_amid_writing_it_finds_all_that_is_stored_and_no_more(directory):
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER.format(repository=str(Path(__file__).parents[3])), str(directory)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdout is not None
    for _ in range(12):
        said = await writer.stdout.readline()
    writer.kill()
    await writer.wait()
    things = EdgeCollection(directory, SCHEMA)
    stored = {each.id: each for page in things.pages(Where(), vectors=True) for each in page}
    written = set(range(int(said) + 100))
    gone = {at for at in written if 20 <= at % 100 < 40}
    assert {id_of(at) for at in written - gone} <= set(stored)
    assert not {id_of(at) for at in gone} & set(stored)
    found = things.search(vector(7).tolist(), len(stored) + 1, Where())
    assert {each.id for each, _ in found} == set(stored)
    query = vector(7) / np.linalg.norm(vector(7))
    for each, score in found:
        assert score == pytest.approx(float(np.array(stored[each.id].vector) @ query), abs=2e-5)
    things.close()


def test_a_full_disk_costs_the_file_and_nothing_else(directory, caplog):
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(1, 1, {})])
    things._file._file = FileIO("/dev/full", "wb")
    things.upsert([entry(2, 2, {})])
    assert "No space left on device" in caplog.text
    things.upsert([entry(3, 3, {})])
    assert len(found_in(things)) == 3
    things.close()
    assert not list((directory / "things").glob("index*"))
    things = EdgeCollection(directory, SCHEMA)
    assert len(found_in(things)) == 3
    things.close()


def test_where_the_store_fails_the_file_is_not_believed(directory):
    """Whether it wrote before it failed is not known: the next start asks it."""
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(1, 7, {})])
    shard = things._shard

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(shard, name)

        def update(self, operation: object) -> None:
            raise Exception("disk quota exceeded")

    things._shard = Failing()  # type: ignore[assignment]
    with pytest.raises(Internal, match="disk quota exceeded"):
        things.upsert([entry(2, 14, {})])
    things._shard = shard
    assert found_in(things) == [id_of(1)]
    things.close()
    things = EdgeCollection(directory, SCHEMA)
    assert found_in(things) == [id_of(1)]
    things.close()


def test_the_file_of_the_index_does_not_grow_with_every_write(directory, monkeypatch):
    monkeypatch.setattr(edge, "FLUSH_ENTRIES", 500)
    monkeypatch.setattr(index_file, "SPARE", 500)
    things = EdgeCollection(directory, SCHEMA)
    for at in range(100):
        things.upsert([entry(number, 7 * at + number % 6, {"at": at}) for number in range(50)])
    file = directory / "things" / "index.rows"
    assert file.stat().st_size < 1200 * things._index.record.itemsize
    left = killed(directory)
    things.close()
    things = EdgeCollection(left, SCHEMA)
    assert len(things.search(vector(7 * 99).tolist(), 99, Where({"at": 99}))) == 50
    things.close()


def test_what_changed_since_the_index_answered_is_not_given(directory, monkeypatch):
    """Another thread's writes between the search and the reading: no entry of another tenant, and none that is gone."""
    things = EdgeCollection(directory, SCHEMA)
    things.upsert([entry(at, 1 + 7 * at, {"tenant": "t1"}) for at in range(3)])
    plain = things.get

    def late(ids, **more):
        monkeypatch.undo()
        things.upsert([entry(0, 1, {"tenant": "t2"})])
        things.delete([id_of(1)])
        return plain(ids, **more)

    monkeypatch.setattr(things, "get", late)
    found = things.search(vector(1).tolist(), 9, Where({"tenant": "t1"}))
    assert [each.id for each, _ in found] == [id_of(2)]
    things.close()


def test_a_collection_that_is_not_searched_keeps_no_vectors_in_memory(directory):
    plain = Schema(**{**vars(SCHEMA), "searched": False})
    things = EdgeCollection(directory, plain)
    things.upsert([entry(1, 1, {"kind": "a"}), entry(2, 2, {"kind": "b"})])
    assert [each.id for each, _ in things.search(vector(2).tolist(), 9, Where({"kind": "b"}))] == [id_of(2)]
    things.close()
    assert not list((directory / "things").glob("index*"))


def size_of(directory: Path) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())


def test_the_log_of_writes_does_not_grow_with_every_write(directory, monkeypatch):
    """A node that is up for months writes the same sessions again and again."""
    monkeypatch.setattr(edge, "FLUSH_ENTRIES", 500)
    things = EdgeCollection(directory, SCHEMA)
    rounds = []
    for _ in range(5):
        for _ in range(60):
            things.upsert([Entry(id_of(at), {"kind": "x" * 20_000}, vector(at).tolist()) for at in range(20)])
        rounds.append(size_of(directory))
    assert rounds[-1] < rounds[1] + (48 << 20), "24 MB a round are logged"
    things.close()


def test_the_space_of_the_deleted_is_given_back_at_a_start(directory):
    things = EdgeCollection(directory, SCHEMA)
    for start in range(0, 6000, 500):
        things.upsert([entry(at, 7 * at, {"kind": "x" * 2000, "at": at}) for at in range(start, start + 500)])
    things.delete([id_of(at) for at in range(4000)])
    things.close()
    before = size_of(directory)
    things = EdgeCollection(directory, SCHEMA)
    assert things.count() == 2000
    assert things.search(vector(7 * 5000).tolist(), 1, Where())[0][0].id == id_of(5000)
    assert things.scan(Where(), 1, "at", descending=False)[0].payload["at"] == 4000
    things.upsert([entry(1, 7, {"kind": "new"})])
    things.close()
    assert size_of(directory) < before - (4000 * 2000) // 2
