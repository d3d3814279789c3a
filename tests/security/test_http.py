"""Bytes that no client of good will sends: refused on their connection, and everybody else is served meanwhile."""

import asyncio
import json

import pytest

BODY = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode()


async def exchange(world, sent: bytes, *, within_s: float = 10) -> bytes:
    """All that comes back for these bytes until the gateway closes, or its silence after an answer."""
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    found = b""
    try:
        async with asyncio.timeout(within_s):
            while chunk := await reader.read(65536):
                found += chunk
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return found


def statuses(answer: bytes) -> list[int]:
    """Of each response in it."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def serves(world) -> None:
    assert (await world.client().get("/version")).status_code == 200


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((line, b"Host: x", b"Connection: close", *headers, b"", body))


REFUSED = {
    "two lengths": request(b"POST /v1/completions HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6", body=BODY),
    "length and chunks": request(
        b"POST /v1/completions HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "negative length": request(b"POST /v1/completions HTTP/1.1", b"Content-Length: -1", body=BODY),
    "endless length": request(b"POST /v1/completions HTTP/1.1", b"Content-Length: " + b"9" * 400, body=BODY),
    "length in letters": request(b"POST /v1/completions HTTP/1.1", b"Content-Length: 0x10", body=BODY),
    "wrong chunk": request(b"POST /v1/completions HTTP/1.1", b"Transfer-Encoding: chunked", body=b"zz\r\nx\r\n"),
    "endless chunk": request(
        b"POST /v1/completions HTTP/1.1", b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nx\r\n"
    ),
    "other encoding": request(b"POST /v1/completions HTTP/1.1", b"Transfer-Encoding: xchunked", body=BODY),
    "NUL in a header": request(b"GET /v1/models HTTP/1.1", b"X-A: a\0b"),
    "space before the colon": request(b"GET /v1/models HTTP/1.1", b"X-A : a"),
    "a folded header": request(b"GET /v1/models HTTP/1.1", b"X-A: a", b" X-B: b\rc"),
    "no method": request(b"\0\1\2\3 /v1/models HTTP/1.1"),
    "binary": bytes(range(256)) * 4,
    "a TLS hello": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "too long a line": request(b"GET /" + b"a" * 70_000 + b" HTTP/1.1"),
    "too many headers": request(b"GET /v1/models HTTP/1.1", *(b"X-%d: aaaaaaaaaa" % each for each in range(6000))),
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
async def test_malformed_requests_are_refused(world, keys, sent):
    scheduler = await world.replica()
    keys.create("ann")
    await world.start(api_keys_file=keys.path, head_timeout_s=1)
    answer = await exchange(world, sent)
    assert all(400 <= status < 500 for status in statuses(answer)), answer[:300]
    assert not scheduler.requests
    await serves(world)


async def test_a_head_that_trickles_in_is_given_up_and_nobody_waits_for_it(world):
    await world.start(head_timeout_s=0.2)
    host, port = world.url.removeprefix("http://").split(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
    for index, (_, writer) in enumerate(held):
        writer.write(b"GET /v1/models HTTP/1.1\r\nX-A: a" if index % 2 else b"")
    await serves(world)
    answers = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in held)), 10)
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}
    assert b"did not arrive within 0.2 s" in answers[0]
    for _, writer in held:
        writer.close()


async def test_a_head_that_never_ends_is_given_up_by_its_size(world):
    await world.start()
    host, port = world.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/models HTTP/1.1\r\n")
    sent = 0
    try:
        while sent < 50 << 20:
            writer.write(b"X-Header: " + b"a" * 8192 + b"\r\n")
            sent += 8192
            await asyncio.wait_for(writer.drain(), 5)
    except ConnectionError:
        pass
    assert sent < 50 << 20, "it read for ever"
    writer.close()
    await serves(world)


async def test_an_idle_connection_between_requests_is_not_one_whose_head_is_late(world):
    await world.start()
    client = world.client()
    for _ in range(2):
        assert (await client.get("/version")).status_code == 200
        (connection,) = world.gateway._http._server.server_state.connections
        assert connection._timer is None


TRICKS = [
    b"/v1/../v1/models", b"/v1/%2e%2e/v1/models", b"/%2e%2e/%2e%2e/etc/passwd", b"/..%2f..%2fetc/passwd",
    b"/v1/models/..%2f..%2f..%2fetc%2fpasswd", b"/v1/files/..%2f..%2fcluster.key", b"/v1/responses/%00",
    b"/v1/models/%ff%fe", b"//etc/passwd",
    b"/v1/models%00.json", b"/V1/MODELS", b"/v1/models;a=b", b"/v1//models", b"/v1/russet/sessions/%2e%2e%2fother",
    b"/health/../v1/models", b"/metrics%2f..%2fv1/models", b"http://x/v1/models", b"http://evil/%2e%2e/v1/models",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS, ids=lambda path: path.decode("latin-1"))
async def test_no_path_leads_around_the_key_or_out_of_the_api(world, keys, path):
    keys.create("ann")
    await world.start(api_keys_file=keys.path)
    answer = await exchange(world, request(b"GET " + path + b" HTTP/1.1"))
    assert statuses(answer)[0] in (400, 401, 404, 405), answer[:300]
    assert b"root:" not in answer
    await serves(world)


async def test_what_is_sent_in_headers_does_not_come_back_as_headers(world):
    await world.replica(answer="Paris")
    await world.start()
    lines = (
        b"X-Russet-Session: s%0d%0aSet-Cookie: a=b", b"X-Request-Id: x\x0bSet-Cookie: a=b",
        b"X-Russet-Tenant: t%0aX-Evil: 1",
        b"Content-Type: application/json", b"Content-Length: %d" % len(BODY),
    )  # fmt: skip
    answer = await exchange(world, request(b"POST /v1/completions HTTP/1.1", *lines, body=BODY))
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in head
    assert b"x-evil" not in head


DEEP = {
    "lists": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "closed": b"[" * 50_000 + b"]" * 50_000,
    "in a field": b'{"model":"tiny","messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a schema": b'{"model":"tiny","prompt":"x","response_format":'
    + b'{"type":"json_schema","json_schema":{"name":"a","schema":'
    + b'{"items":' * 20_000
    + b"{}"
    + b"}" * 20_000
    + b"}}}",
    "a number": b'{"model":"tiny","prompt":"x","max_tokens":' + b"9" * 100_000 + b"}",
    "a lone surrogate": b'{"model":"tiny","prompt":"\\ud800"}',
    "no text": b'{"model":"tiny","prompt":"\xff\xfe"}',
}


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_bodies_that_would_exhaust_a_parser_are_refused(world, path, body):
    await world.replica(answer="x")
    await world.start()
    answer = await world.client().post(path, content=body)
    assert answer.status_code < 500, answer.text[:300]
    await serves(world)
