"""What is remembered of sessions and prefixes, against a model that remembers everything."""

from hypothesis import given
from hypothesis import strategies as st

from actors.router.affinity import HOLDERS, Affinity, Home


def at(replica_id: str) -> Home:
    """Served there, by a request of 40 tokens and an answer of 9."""
    return Home(replica_id, 40, 9)


def test_a_session_belongs_to_its_last_replica_and_tenant():
    affinity = Affinity(10)
    affinity.served("t", "s", [], at("a"))
    affinity.served("t", "s", [], at("b"))
    assert affinity.session("t", "s") == at("b")
    assert affinity.session("other", "s") is None
    affinity.served("t", "", [], at("a"))
    assert affinity.session("t", "") is None


def test_a_shared_system_prompt_lies_on_several_replicas():
    affinity = Affinity(100)
    affinity.served("t", "", [1, 2, 30, 31], at("a"))
    affinity.served("t", "", [1, 2, 40], at("b"))
    assert affinity.prefix_pages("t", [1, 2, 30, 31, 32]) == {"a": 4, "b": 2}
    assert affinity.prefix_pages("t", [1, 2, 40]) == {"a": 2, "b": 3}
    assert affinity.prefix_pages("other", [1, 2]) == {}


def test_pages_after_a_gap_do_not_count():
    affinity = Affinity(100)
    affinity.served("t", "", [2, 3], at("a"))
    affinity.served("t", "", [1], at("b"))
    assert affinity.prefix_pages("t", [1, 2, 3]) == {"b": 1}


def test_the_tables_are_bounded_and_forget_the_end_of_the_oldest_prefix_first():
    affinity = Affinity(3)
    affinity.served("t", "", [1, 2, 3], at("a"))
    affinity.served("t", "", [9], at("b"))
    assert affinity.prefix_pages("t", [1, 2, 3]) == {"a": 2}
    for number in range(5):
        affinity.served("t", f"s{number}", [], at("a"))
    assert [affinity.session("t", f"s{number}") for number in range(5)] == [None, None, at("a"), at("a"), at("a")]


@given(st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=5, unique=True), st.sampled_from("abcdef"))))
def test_what_is_remembered_was_served(served):
    affinity = Affinity(1000)
    pages: dict[str, set[int]] = {}
    for hashes, replica in served:
        affinity.served("t", "", hashes, at(replica))
        pages.setdefault(replica, set()).update(hashes)
    for hashes, _ in served:
        found = affinity.prefix_pages("t", hashes)
        assert len(found) <= HOLDERS
        for replica, count in found.items():
            assert 0 < count <= len(hashes)
            assert set(hashes[:count]) <= pages[replica]
