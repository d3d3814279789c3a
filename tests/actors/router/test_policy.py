"""Scoring, as properties: load decides, affinity decides between equals, and nothing is random."""

from hypothesis import assume, given
from hypothesis import strategies as st

from actors.router.config import RouterConfig
from actors.router.policy import Ask, View, confidence, explain, rank

CONFIG = RouterConfig()
ASK = Ask(prompt_tokens=512, isa_class="")
IDLE = View(
    replica_id="a",
    running=0,
    waiting=0,
    queue_limit=64,
    pages_used=0,
    pages_total=1000,
    page_size=16,
    prefill_backlog_tokens=0,
    prefill_tokens_per_s=1000,
    step_ms=10,
    sent=0,
    sent_tokens=0,
    success=1.0,
    tpot_ms=0,
    isa_class="x86-avx512vnni",
    holds_session=False,
    prefix_pages=0,
)
views = st.builds(
    View,
    replica_id=st.text("abcdef", min_size=1, max_size=3),
    running=st.integers(0, 64),
    waiting=st.integers(0, 64),
    queue_limit=st.sampled_from([0, 8, 64]),
    pages_used=st.integers(0, 1000),
    pages_total=st.sampled_from([0, 1000]),
    page_size=st.just(16),
    prefill_backlog_tokens=st.integers(0, 100_000),
    prefill_tokens_per_s=st.floats(0, 10_000),
    step_ms=st.floats(0, 100),
    sent=st.integers(0, 64),
    sent_tokens=st.integers(0, 10_000),
    success=st.floats(0, 1),
    tpot_ms=st.floats(0, 100),
    isa_class=st.sampled_from(["x86-avx512vnni", "arm64-neon"]),
    holds_session=st.booleans(),
    prefix_pages=st.integers(0, 100),
)
fleets = st.lists(views, min_size=1, max_size=8, unique_by=lambda view: view.replica_id)
asks = st.builds(Ask, prompt_tokens=st.integers(0, 8192), isa_class=st.sampled_from(["", "arm64-neon"]))
LOADS = ("running", "waiting", "prefill_backlog_tokens", "pages_used", "sent", "sent_tokens", "tpot_ms")


def winner(views, ask=ASK) -> str:
    """Id of the replica that would be chosen."""
    return rank(views, ask, CONFIG)[0].view.replica_id


@given(fleets, asks, st.randoms(use_true_random=False))
def test_the_order_in_which_replicas_are_known_does_not_matter(fleet, ask, random):
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert rank(fleet, ask, CONFIG) == rank(shuffled, ask, CONFIG)


@given(fleets, asks)
def test_every_replica_is_ranked_once_by_the_sum_of_its_terms(fleet, ask):
    ranked = rank(fleet, ask, CONFIG)
    assert sorted(each.view.replica_id for each in ranked) == sorted(view.replica_id for view in fleet)
    assert all(each.score == sum(each.terms.values()) for each in ranked)
    scores = [each.score for each in ranked]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= confidence(ranked) <= 1


@given(views, asks, st.sampled_from(LOADS), st.integers(1, 1000))
def test_the_less_loaded_wins_all_else_equal(view, ask, field, more):
    view = view._replace(replica_id="b", pages_total=1000, pages_used=0, queue_limit=0, step_ms=10.0)
    # The loaded one has the id that would win a tie.
    loaded = view._replace(replica_id="a", **{field: getattr(view, field) + more})
    assert winner([loaded, view], ask) == "b"


@given(views, asks)
def test_equals_go_to_the_lowest_id(view, ask):
    assert winner([view._replace(replica_id=name) for name in ("c", "a", "b")], ask) == "a"


def test_a_session_sticks_until_its_replica_is_overloaded():
    home = IDLE._replace(replica_id="b", holds_session=True)
    assert winner([IDLE, home]) == "b"
    assert winner([IDLE, home._replace(running=19)]) == "b"
    assert winner([IDLE, home._replace(running=21)]) == "a", "the wait there is more than session_bonus_ms"


def test_a_prefix_is_worth_the_prefill_it_saves():
    holder = IDLE._replace(replica_id="b", prefix_pages=32)
    assert winner([IDLE, holder]) == "b"
    # 32 pages of 16 tokens at 1000 tokens/s are 512 ms: 51 rows of 10 ms wait less than that, 52 more.
    assert winner([IDLE, holder._replace(running=51)]) == "b"
    assert winner([IDLE, holder._replace(running=52)]) == "a"


@given(st.integers(0, 64), st.integers(0, 10_000))
def test_pages_past_the_prompt_are_worth_nothing(pages, prompt_tokens):
    ask = Ask(prompt_tokens, "")
    [scored] = rank([IDLE._replace(prefix_pages=pages)], ask, CONFIG)
    assert -prompt_tokens <= scored.terms["prompt"] <= 0


def test_a_measured_slow_replica_gives_way_and_an_unmeasured_one_is_assumed_average():
    slow = IDLE._replace(prefill_tokens_per_s=100)
    unmeasured = IDLE._replace(replica_id="b", prefill_tokens_per_s=0, step_ms=0)
    fast = IDLE._replace(replica_id="c", prefill_tokens_per_s=5000)
    assert [each.view.replica_id for each in rank([slow, unmeasured, fast], Ask(512, ""), CONFIG)] == ["c", "b", "a"]


def test_the_isa_class_asked_for_is_preferred():
    arm = IDLE._replace(replica_id="b", isa_class="arm64-neon")
    assert winner([IDLE, arm], Ask(512, "arm64-neon")) == "b"
    assert winner([IDLE, arm], Ask(512, "")) == "a"
    assert winner([IDLE, arm._replace(running=200)], Ask(512, "arm64-neon")) == "a"


def test_failures_count_against_a_replica():
    assert winner([IDLE._replace(success=0.5), IDLE._replace(replica_id="b", running=50)]) == "b"


@given(fleets, asks)
def test_a_full_queue_comes_after_every_other(fleet, ask):
    assume(any(view.waiting < view.queue_limit or view.queue_limit == 0 for view in fleet))
    chosen = next(view for view in fleet if view.replica_id == winner(fleet, ask))
    assert chosen.waiting < chosen.queue_limit or chosen.queue_limit == 0


@given(fleets, asks)
def test_the_explanation_names_the_winner_first_and_every_candidate(fleet, ask):
    ranked = rank(fleet, ask, CONFIG)
    sentences = explain(ranked)
    assert sentences[0].startswith(f"{ranked[0].view.replica_id} is chosen: {ranked[0].score:.0f} ms")
    for each, sentence in zip(ranked, sentences, strict=True):
        assert sentence.startswith(f"{each.view.replica_id} is ")
        for name, value in each.terms.items():
            assert (f"{name} {value:+.0f}" in sentence) == bool(round(value))


def test_confidence_is_certain_alone_and_even_between_equals():
    assert confidence([]) == 0
    assert confidence(rank([IDLE], Ask(1, ""), CONFIG)) == 1
    assert confidence(rank([IDLE, IDLE._replace(replica_id="b")], Ask(1, ""), CONFIG)) == 0.5
