"""Names and splits: who gets which model, who moves when weights change, and what a target that fails does."""

from hypothesis import given
from hypothesis import strategies as st

from actors.router.naming import LEAST_RECENT, Alias, Failures, Tables, Target, draw, resolve

KEYS = [f"tenant\0session {number}" for number in range(4000)]


def split(name="chat", max_failures=0.5, **weights: float) -> Alias:
    return Alias(name, tuple(Target(model, weight) for model, weight in weights.items()), max_failures)


def tables(*aliases: Alias, ready=("a", "b", "c"), default="a", failures=None) -> Tables:
    return Tables({alias.name: alias for alias in aliases}, default, set(ready), failures or {})


def chosen(alias: Alias, key: str, **more) -> str:
    return resolve(alias.name, key, tables(alias, **more)).choices[0].model


def test_a_model_leads_to_itself_and_says_nothing():
    assert resolve("b", "k", tables()) == ("", (("b", 1.0, "it was asked for"),), ())


def test_an_alias_leads_to_its_model_and_says_so():
    found = resolve("gpt-4o-mini", "k", tables(split("gpt-4o-mini", a=1)))
    assert (found.alias, found.choices[0].model) == ("gpt-4o-mini", "a")
    assert found.explanation == ("gpt-4o-mini is an alias of a",)


def test_the_default_may_be_an_alias_and_targets_are_never_names_again():
    """A canary under a model's own name: the name's clients are split, and the target of that name is the model."""
    found = resolve("", "k", tables(split("a", a=1, b=0)))
    assert found.alias == "a"
    assert found.choices[0].model == "a"
    assert found.explanation[0] == "no model was asked for; a is the default"


def test_shares_are_the_weights():
    alias = split(a=0.9, b=0.1)
    share = sum(chosen(alias, key) == "b" for key in KEYS) / len(KEYS)
    assert 0.08 < share < 0.12
    told = {choice.model: choice.probability for choice in resolve("chat", "k", tables(alias)).choices}
    assert told == {"a": 0.9, "b": 0.1}


def test_a_key_always_gets_the_same():
    alias = split(a=0.5, b=0.5)
    assert [chosen(alias, key) for key in KEYS[:50]] == [chosen(alias, key) for key in KEYS[:50]]
    # And another alias draws for itself: who is in one experiment's arm says nothing of the other's.
    other = split("other", a=0.5, b=0.5)
    both = sum(chosen(alias, key) == chosen(other, key) for key in KEYS) / len(KEYS)
    assert 0.45 < both < 0.55


def test_changed_weights_move_no_more_than_they_must():
    before, after = split(a=0.9, b=0.1), split(a=0.8, b=0.2)
    moved = [(chosen(before, key), chosen(after, key)) for key in KEYS if chosen(before, key) != chosen(after, key)]
    assert set(moved) == {("a", "b")}
    assert 0.08 < len(moved) / len(KEYS) < 0.12


def test_a_new_target_takes_from_all_and_nothing_else_moves():
    before, after = split(a=1, b=1), split(a=1, b=1, c=1)
    moved = [(chosen(before, key), chosen(after, key)) for key in KEYS if chosen(before, key) != chosen(after, key)]
    assert {new for _, new in moved} == {"c"}
    assert 0.30 < len(moved) / len(KEYS) < 0.37


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=5), st.floats(0.01, 100), st.text(max_size=20))
def test_scaling_all_weights_moves_nobody(weights, factor, key):
    one = Alias("x", tuple(Target(f"m{i}", weight) for i, weight in enumerate(weights)), 0.5)
    other = Alias("x", tuple(Target(f"m{i}", weight * factor) for i, weight in enumerate(weights)), 0.5)
    assert draw(one, key) == draw(other, key)


def test_where_a_target_is_away_its_keys_alone_go_elsewhere_and_it_is_said():
    alias = split(a=0.5, b=0.5)
    for key in KEYS[:200]:
        drawn = chosen(alias, key)
        found = resolve("chat", key, tables(alias, ready=("a", "c")))
        assert found.choices[0].model == "a"
        assert [choice.probability for choice in found.choices] == [1.0, 0.0]
        if drawn == "b":
            assert found.explanation[-1] == "b has no replica that takes requests: a takes its place"
        else:
            assert len(found.explanation) == 1


def test_a_target_that_fails_too_often_is_passed_over_and_it_is_said():
    alias = split(a=0.5, b=0.5, max_failures=0.2)
    key = next(key for key in KEYS if chosen(alias, key) == "b")
    few = {("chat", "b"): Failures(LEAST_RECENT - 1, LEAST_RECENT - 1)}
    assert chosen(alias, key, failures=few) == "b"
    within = {("chat", "b"): Failures(4, 20)}
    assert chosen(alias, key, failures=within) == "b"
    beyond = resolve("chat", key, tables(alias, failures={("chat", "b"): Failures(5, 20)}))
    assert beyond.choices[0].model == "a"
    assert beyond.explanation[-1] == "b failed 5 of its last 20 requests: a takes its place"
    # One that fails is still better than one that is not there.
    alone = resolve("chat", key, tables(alias, ready=("b",), failures={("chat", "b"): Failures(5, 20)}))
    assert alone.choices[0].model == "b"


def test_weight_nought_takes_only_what_no_other_can():
    alias = split(a=1, b=0)
    assert {chosen(alias, key) for key in KEYS} == {"a"}
    assert chosen(alias, KEYS[0], ready=("b",)) == "b"
