"""Whatever a caller sends: no fault of ours, nothing accepted is lost, nothing is told."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from web.webhook_door import Door, Practice, open_door

EXAMPLES = 1_000 if os.environ.get("EVENTSYNC_PROVE") else 100
MARK = "test.client.12@example.test"

texts = st.one_of(st.text(max_size=20), st.just(MARK), st.just("\0"), st.just("NaN"), st.just("1458526480368.0"))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
json_bodies = values.map(orjson.dumps)
cut = st.tuples(json_bodies, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
bodies = st.one_of(json_bodies, cut, st.binary(max_size=300), st.just(b"[" * 3000), json_bodies.map(gzip.compress))
field_names = st.sampled_from(
    ["Content-Type", "Content-Encoding", "X-Forwarded-For", "X-Signature", "Authorization", "Accept", "X-Any", "Cookie"]
)
field_values = st.one_of(
    st.sampled_from([b"gzip", b"deflate", b"br", b"identity, gzip", b"application/json", b"127.0.0.1, ::1", b""]),
    st.binary(max_size=60).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F)),
)
# Twice the same Content-Type is no HTTP to aiohttp, which answers 400 before any of our code runs.
fields = st.lists(st.tuples(field_names, field_values), max_size=6, unique_by=lambda field: field[0])
framings = st.sampled_from(["length", "chunked"])
tokens = st.sampled_from(["valid", "valid", "valid", "valid in the query", "wrong"])


def as_request(token: str, how: str, headers: list[tuple[str, bytes]], body: bytes, framing: str) -> bytes:
    path = {"valid": f"/{token}", "valid in the query": f"?token={token}", "wrong": f"/x{token}"}[how]
    lines = [f"POST /api/webhooks/intakeq{path} HTTP/1.1".encode(), b"Host: door", b"Connection: close"]
    lines += [name.encode() + b": " + value for name, value in headers]
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    else:
        lines.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def check(door: Door, practice: Practice, token: str, how: str, request: bytes, body: bytes) -> None:
    known = set(await practice.stored_ids())
    answer = await door.raw(request)
    head, _, content = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    told = orjson.loads(content)
    assert status < 500
    assert token.encode() not in answer
    assert MARK.encode() not in answer
    fresh = [event for event in await practice.stored() if event.id not in known]
    if how == "wrong":
        assert (status in (401, 429), fresh) == (True, [])
        return
    assert status in (200, 400)
    [event] = fresh
    assert event.body == body
    if status == 200:
        assert (event.status, UUID(told["event_id"])) == ("pending", event.id)
    else:
        assert (event.status, event.reason) == ("parked", told["details"]["error_type"])


async def test_no_request_makes_the_door_fail_lose_or_tell_anything(
    database_url: str, keyring: Keyring, tmp_path: Path, pool: Database, database: asyncpg.Connection
) -> None:
    practice = Practice(pool, database, keyring)
    token = (await practice.connect()).webhook_token
    loop = asyncio.get_running_loop()
    traces: list[str] = []
    handler = Collecting(traces)
    async with open_door(database_url, keyring, tmp_path) as door:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(how=tokens, headers=fields, body=bodies, framing=framings)
        def run(how: str, headers: list[tuple[str, bytes]], body: bytes, framing: str) -> None:
            request = as_request(token, how, headers, body, framing)
            checking = check(door, practice, token, how, request, body)
            asyncio.run_coroutine_threadsafe(checking, loop).result(timeout=20)

        logging.getLogger().addHandler(handler)
        try:
            with capture_logs() as lines:
                await asyncio.to_thread(run)
        finally:
            logging.getLogger().removeHandler(handler)
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert [line for line in traces if not line.startswith("asyncio")] == []
    logged = repr(lines) + repr(traces)
    assert token not in logged
    assert MARK not in logged


class Collecting(logging.Handler):
    """Keeps what libraries log of warnings and errors."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.name} {record.getMessage()} {record.exc_info}")
