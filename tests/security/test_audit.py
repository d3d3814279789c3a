"""What administrators did stands in the witness log: who, what, when, how it ended; who was refused did nothing."""

import logging

from cluster.gateway import api_keys


async def test_actions_are_entries(world, keys):
    await world.replica()
    user, ops = keys.create("ann"), keys.create("ops", "admin")
    await world.start(api_keys_file=keys.path)
    client = world.client()
    load, split = {"model": "smollm2-135m-instruct", "id": "small"}, {"models": {"tiny": 1}}
    asked = [
        ("POST", "/v1/models", load, "model.load", "small"),
        ("PATCH", "/v1/models/small", {"replicas": 2}, "model.scale", "small"),
        ("DELETE", "/v1/models/small", None, "model.unload", "small"),
        ("DELETE", "/v1/models/small", None, "model.unload", "small"),
        ("PUT", "/v1/russet/aliases/chat", split, "alias.put", "chat"),
        ("DELETE", "/v1/russet/aliases/chat", None, "alias.delete", "chat"),
    ]
    for method, path, body, *_ in asked:
        assert (await client.request(method, path, json=body, headers=user)).status_code == 403
    assert not world.memory.entries
    statuses = [
        (await client.request(method, path, json=body, headers=ops)).status_code for method, path, body, *_ in asked
    ]
    entries = [entry for entry in world.memory.entries if entry.action]
    assert [(entry.action, entry.subject) for entry in entries] == [(action, subject) for *_, action, subject in asked]
    assert {entry.tenant for entry in entries} == {"ops"}
    assert all(entry.time_ms for entry in entries)
    assert len({entry.id for entry in entries}) == len(entries)
    failed = [status >= 400 for status in statuses]
    assert failed == [False, False, False, True, False, False]
    assert [bool(entry.error) for entry in entries] == failed
    assert "NotFound" in entries[3].error


async def test_keys_that_come_and_go_are_entries_that_hold_none(world, keys):
    ann = keys.create("ann")
    await world.start(api_keys_file=keys.path)
    client = world.client()
    assert (await client.get("/v1/models", headers=ann)).status_code == 200
    assert not world.memory.entries
    keys.create("bob")
    api_keys.revoke(keys.path, "ann")
    assert (await client.get("/v1/models", headers=ann)).status_code == 401
    await world.until(lambda: len(world.memory.entries) == 2)
    found = [(entry.action, entry.subject) for entry in world.memory.entries]
    assert found == [("key.create", "bob"), ("key.revoke", "ann")]
    text = str(world.memory.entries)
    assert not [secret for secret in keys.secrets if secret in text]


async def test_an_action_is_done_where_it_cannot_be_kept_and_that_is_logged(world, keys, caplog):
    ops = keys.create("ops", "admin")
    await world.replica()
    await world.start(api_keys_file=keys.path)
    world.memory.away = True
    body = {"models": {"tiny": 1}}
    assert (await world.client().put("/v1/russet/aliases/chat", json=body, headers=ops)).status_code == 200
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert error.startswith("alias.put of chat is not in the witness log")
