"""Callers that speak HTTP badly, slowly or not at all; and what is never told, whatever they send."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import AddedConnection
from servers.eventually import eventually
from web.webhook_door import BODY, Door, Limits, Practice, open_door


@pytest.fixture
def practice(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Practice:
    return Practice(pool, database, keyring)


@pytest.fixture
async def connection(practice: Practice) -> AddedConnection:
    return await practice.connect()


@pytest.fixture
async def door(database_url: str, keyring: Keyring, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(database_url, keyring, tmp_path, Limits(read_timeout_s=0.3)) as door:
        yield door


class Told:
    """All that was logged, by every logger at every level, with traces."""

    def __init__(self, lines: list[MutableMapping[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
        self._lines = lines
        self._caplog = caplog

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self._lines]

    @property
    def text(self) -> str:
        formatter = logging.Formatter("%(name)s %(message)s")
        return "\n".join([*map(repr, self._lines), *map(formatter.format, self._caplog.records)])


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as lines:
        yield Told(lines, caplog)


def request_bytes(token: str, *fields: str, body: bytes = b"") -> bytes:
    head = "".join(f"{field}\r\n" for field in (f"POST /api/webhooks/intakeq/{token} HTTP/1.1", "Host: door", *fields))
    return head.encode("latin-1") + b"\r\n" + body


async def test_a_body_that_does_not_come_is_given_up(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    answer = await door.raw(request_bytes(connection.webhook_token, "Content-Length: 100", body=b'{"Type":'), ends=True)
    assert b"body_incomplete" in answer or answer == b""

    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(request_bytes(connection.webhook_token, "Content-Length: 100", body=b'{"Type":'))
    async with asyncio.timeout(5):
        status = await reader.readline()
    writer.transport.abort()
    assert status.split()[1] == b"408"
    assert await practice.stored_ids() == []
    assert (await door.post(connection.webhook_token)).status == 200


async def test_a_body_that_drips_holds_up_nobody_else(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(request_bytes(connection.webhook_token, "Content-Length: 100", body=b"{"))
    answers = [await door.post(connection.webhook_token) for _ in range(3)]
    writer.transport.abort()
    assert {answer.status for answer in answers} == {200}
    assert await practice.stored_ids() == [answer.event_id for answer in answers]


async def test_a_caller_who_leaves_in_the_middle_of_the_body_leaves_no_event(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(request_bytes(connection.webhook_token, "Content-Length: 100", body=b'{"Type":'))
    await writer.drain()
    writer.transport.abort()
    await eventually(lambda: refused(door, "body_incomplete"))
    assert await practice.stored_ids() == []


async def test_many_and_large_headers_lose_no_webhook(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    headers = {f"X-Field-{number}": "x" * 20 for number in range(200)} | {"X-Large": "y" * 20_000}
    assert (await door.post(connection.webhook_token, headers=headers)).status == 200
    [event] = await practice.stored()
    assert event.headers["x-large"] == "y" * 20_000


async def test_a_header_that_is_no_utf_8_loses_no_webhook(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    fields = ["X-Name: M\xfcller \xff\xfe", f"Content-Length: {len(BODY)}", "Connection: close"]
    answer = await door.raw(request_bytes(connection.webhook_token, *fields, body=BODY))
    assert answer.startswith(b"HTTP/1.1 200")
    [event] = await practice.stored()
    assert event.headers["x-name"].startswith("M\N{REPLACEMENT CHARACTER}")
    assert (await door.post(connection.webhook_token)).status == 200


GARBAGE = [
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS"),
    pytest.param(b"P@ST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\nHost: door\r\n\r\n", id="method"),
    pytest.param(b"POST /api/webhooks/intakeq/TOKEN HTTP/9.9\r\nHost: door\r\n\r\n", id="version"),
    pytest.param(b"POST /api/webhooks/intakeq/TO\x00KEN TOKEN\r\n\r\n", id="NUL in the path"),
    pytest.param(b"POST http://[bad/TOKEN HTTP/1.1\r\nHost: door\r\n\r\n", id="URL"),
    pytest.param(b"POST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\nno header TOKEN\r\n\r\n", id="header"),
    pytest.param(b"POST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\nContent-Length: -5\r\n\r\n", id="negative length"),
    pytest.param(
        b"POST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n12345",
        id="lengths",
    ),
    pytest.param(
        b"POST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ TOKEN\r\n", id="chunk size"
    ),
    pytest.param(
        b"POST /api/webhooks/intakeq/" + b"TOKEN" * 3000 + b" HTTP/1.1\r\nHost: door\r\n\r\n", id="endless path"
    ),
    pytest.param(
        b"POST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\nX-Large: " + b"TOKEN" * 20_000 + b"\r\n\r\n", id="huge header"
    ),
    pytest.param(
        b"POST /api/webhooks/intakeq/TOKEN HTTP/1.1\r\n" + b"X-Field: TOKEN\r\n" * 2000 + b"\r\n", id="endless headers"
    ),
    pytest.param(b"TOKEN\r\n" * 50, id="noise"),
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_what_is_no_http_is_answered_without_repeating_it(
    door: Door, practice: Practice, connection: AddedConnection, told: Told, garbage: bytes
) -> None:
    answer = await door.raw(garbage.replace(b"TOKEN", connection.webhook_token.encode()), ends=True)
    assert answer == b"" or answer.split()[1].startswith(b"4")
    assert connection.webhook_token.encode() not in answer
    assert connection.webhook_token not in told.text
    assert (await door.post(connection.webhook_token)).status == 200
    assert len(await practice.stored_ids()) == 1


async def test_neither_tokens_nor_bodies_nor_addresses_are_ever_logged_or_answered(
    door: Door, connection: AddedConnection, told: Told
) -> None:
    token = connection.webhook_token
    told_back = ""
    for body in (BODY, b"Test Client 12 <test.client.12@example.test>", b"", b'{"Name": "Test Client 12', b"\xff\xfe"):
        for path in (f"intakeq/{token}", f"intakeq?token={token}", f"intakeq/{token}x", f"nobody/{token}"):
            answer = await door.send("POST", f"/api/webhooks/{path}", data=body)
            told_back += answer.text + repr(answer.headers)
    for method in ("GET", "DELETE", "OPTIONS", "PATCH"):
        told_back += (await door.send(method, f"/api/webhooks/intakeq/{token}?email=test.client.12@example.test")).text
    assert "request" in told.events  # the access log was written
    for secret in (token, token[:20], "test.client.12", "Test Client 12", "AppointmentCreated"):
        assert secret not in told.text
        assert secret not in told_back


async def test_a_fault_of_our_own_is_answered_and_logged_without_what_it_quotes(
    door: Door, connection: AddedConnection, told: Told
) -> None:
    async def broken(_token_hash: bytes) -> None:
        raise LookupError("Test Client 12")

    door.book.find = broken  # type: ignore[assignment]  # a fault that cannot be brought about from outside
    answer = await door.post(connection.webhook_token)
    assert (answer.status, answer.json["details"]["error_type"]) == (500, "internal_error")
    assert "request_failed" in told.events
    assert "Test Client" not in told.text + answer.text


def refused(door: Door, reason: str) -> float | None:
    labels = {"vendor": "intakeq", "reason": reason}
    return door.metrics.registry.get_sample_value("eventsync_requests_refused_total", labels)
