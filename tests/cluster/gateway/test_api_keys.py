"""Keys are kept as hashes, with role, expiry and limits; what changes in the file holds from the next request on."""

import os
import stat
from datetime import UTC, datetime, timedelta

import pytest

from actors.base.errors import InvalidArgument, NotFound, Unauthenticated
from actors.base.quota import Limits
from cluster.gateway.api_keys import ApiKeys, create, read, revoke

DIGEST = "0" * 64


def test_they_are_stored_as_hashes_and_checked(tmp_path):
    path = tmp_path / "keys"
    alice, bob = create(path, "alice"), create(path, "bob", "admin")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert alice not in path.read_text()
    keys = ApiKeys(path)
    assert [(key.name, key.role) for key in keys.keys] == [("alice", "user"), ("bob", "admin")]
    assert (keys.check(alice).name, keys.check(bob).name) == ("alice", "bob")
    for wrong in ("", alice[:-1], alice + "x", "rk-", "ключ", "\udcff", "x" * 100_000, keys.keys[0].digest):
        with pytest.raises(Unauthenticated) as raised:
            keys.check(wrong)
        assert alice not in str(raised.value)


def test_every_key_is_compared_whichever_it_is(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    given = [create(path, name) for name in "abc"]
    keys, compared = ApiKeys(path), []
    monkeypatch.setattr("cluster.gateway.api_keys.equal", lambda a, b: compared.append(b) or a == b)
    for key in given:
        keys.check(key)
    with pytest.raises(Unauthenticated):
        keys.check("wrong")
    assert compared == [key.digest for key in keys.keys] * 4


def test_what_changes_in_the_file_holds_at_once(tmp_path):
    path = tmp_path / "keys"
    alice = create(path, "alice")
    keys = ApiKeys(path)
    bob = create(path, "bob")
    assert keys.check(bob).name == "bob"
    revoke(path, "alice")
    with pytest.raises(Unauthenticated, match="not known"):
        keys.check(alice)
    assert keys.check(bob).name == "bob"
    path.unlink()
    with pytest.raises(Unauthenticated, match="not known"):
        keys.check(bob)
    with pytest.raises(InvalidArgument):
        revoke(path, "bob")


def test_a_file_that_is_broken_meanwhile_changes_nothing(tmp_path, caplog):
    path = tmp_path / "keys"
    alice = create(path, "alice")
    keys = ApiKeys(path)
    path.write_text("alice plain-text\n")
    assert keys.check(alice).name == "alice"
    assert "keys:1: expected NAME and the SHA-256" in caplog.text


def test_a_key_ends_when_it_expires(tmp_path):
    path, now = tmp_path / "keys", datetime.now(UTC).replace(microsecond=0)
    key = create(path, "alice", expires=now + timedelta(hours=1))
    keys = ApiKeys(path)
    assert keys.check(key, now + timedelta(minutes=59)).expires == now + timedelta(hours=1)
    with pytest.raises(Unauthenticated, match="the API key of alice expired at"):
        keys.check(key, now + timedelta(hours=1))


def test_limits_and_comments_survive_other_changes(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# who may call\n\nold {DIGEST}")
    path.chmod(0o600)
    limits = Limits(60, 20_000, 1_000_000, 4)
    create(path, "alice", limits=limits)
    create(path, "bob", limits=Limits(concurrent=2))
    revoke(path, "old")
    assert path.read_text().startswith("# who may call\n\nalice ")
    assert [key.limits for key in read(path)] == [limits, Limits(concurrent=2)]
    assert [bool(key.limits) for key in read(path)] == [True, True]
    with pytest.raises(NotFound, match="no key named 'old'"):
        revoke(path, "old")


@pytest.mark.parametrize("name", ["", "two words", "new\nline", "#comment", "alice", "a=b", "x" * 129, "bell\a"])
def test_names_are_single_words_used_once(tmp_path, name):
    path = tmp_path / "keys"
    create(path, "alice")
    before = path.read_bytes()
    with pytest.raises(InvalidArgument) as raised:
        create(path, name)
    assert raised.value.param == "name"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice plain-text-key", "keys:3: expected NAME and the SHA-256"),
        ("alice " + "G" * 64, "keys:3: expected NAME and the SHA-256"),
        (f"alice {DIGEST} role=root", "role=root; accepted: user, admin"),
        (f"alice {DIGEST} expires=soon", "expires=soon; accepted: a time"),
        (f"alice {DIGEST} tokens_per_day=-1", "tokens_per_day=-1; accepted: "),
        (f"alice {DIGEST} tokens_per_day=" + "9" * 400, "tokens_per_day=9999"),
        (f"alice {DIGEST} speed=3", "speed=3; accepted: role, expires, requests_per_minute"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    path = tmp_path / "keys"
    path.write_text(f"# who may call\n\n{line}\n")
    with pytest.raises(InvalidArgument, match=said):
        ApiKeys(path)


def test_a_file_that_cannot_be_trusted_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="No such file"):
        ApiKeys(tmp_path / "none")
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="is no text"):
        ApiKeys(path)
    os.truncate(path, 0)
    path.chmod(0o666)
    with pytest.raises(InvalidArgument, match="others may write"):
        ApiKeys(path)
