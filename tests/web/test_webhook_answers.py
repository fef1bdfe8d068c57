"""Every answer of the webhook endpoints, and what is stored with each."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import HmacCheck, SignatureEncoding
from eventsync.postgres.access import RefusalCounts
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import AddedConnection
from web.webhook_door import BODY, Answer, Door, Limits, Practice, open_door, utc_now

MIB = 1024 * 1024


@pytest.fixture
def practice(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Practice:
    return Practice(pool, database, keyring)


@pytest.fixture
async def door(database_url: str, keyring: Keyring, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(database_url, keyring, tmp_path) as door:
        yield door


@pytest.fixture
async def connection(practice: Practice) -> AddedConnection:
    return await practice.connect()


async def test_a_webhook_is_stored_and_answered_with_its_id(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    answer = await door.post(connection.webhook_token)
    assert answer.status == 200
    assert answer.json == {"status": "accepted", "event_id": str(answer.event_id)}
    [event] = await practice.stored()
    assert (event.id, event.connection_id, event.status, event.body) == (
        answer.event_id,
        connection.id,
        "pending",
        BODY,
    )
    assert await door.count("eventsync_events_received_total", vendor="intakeq", store="postgres") == 1


async def test_the_token_may_come_in_the_query(door: Door, practice: Practice, connection: AddedConnection) -> None:
    path = f"/api/webhooks/intakeq?token={connection.webhook_token}"
    answer = await door.send("POST", path, data=BODY)
    assert answer.status == 200
    assert await practice.stored_ids() == [answer.event_id]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"Type":"SomethingNew","Id":7}', id="unknown event"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"17", id="a number"),
        pytest.param(b'{"Name":"\\u0000"}', id="NUL as an escape"),
        pytest.param(b'\xef\xbb\xbf{"Type":"x"}', id="byte order mark"),
        pytest.param(b'{"Note":"\\ud83d"}', id="half a character"),
        pytest.param(b'{"Note":"' + b"x" * (MIB - 11) + b'"}', id="one MiB"),
    ],
)
async def test_whatever_is_json_is_accepted_and_stored_as_it_came(
    door: Door, practice: Practice, connection: AddedConnection, body: bytes
) -> None:
    answer = await door.post(connection.webhook_token, body)
    assert answer.status == 200
    [event] = await practice.stored()
    assert (event.status, event.body) == ("pending", body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "empty_body", id="empty"),
        pytest.param(b"hello", "not_json", id="no JSON"),
        pytest.param(BODY[:-20], "not_json", id="truncated"),
        pytest.param(b'{"Name":"\xff\xfe"}', "invalid_utf8", id="no UTF-8"),
        pytest.param(b"[" * 100_000, "nested_too_deeply", id="endless nesting"),
        pytest.param(b"[" * 500 + b"]" * 500, "nested_too_deeply", id="deep nesting"),
        pytest.param(b'{"Name":"a\x00b"}', "not_json", id="NUL byte"),
        pytest.param(b'{"Price":1e999}', "not_json", id="a number beyond all"),
        pytest.param(b"\x00" * MIB, "not_json", id="one MiB of NUL"),
    ],
)
async def test_what_can_never_be_read_is_answered_400_and_kept_as_parked(
    door: Door, practice: Practice, connection: AddedConnection, body: bytes, reason: str
) -> None:
    answer = await door.post(connection.webhook_token, body)
    assert answer.status == 400
    assert answer.json["success"] is False
    assert answer.json["details"]["error_type"] == reason
    assert reason in answer.json["error"]
    [event] = await practice.stored()
    assert (event.status, event.reason, event.body) == ("parked", reason, body)


async def test_a_parked_webhook_does_not_disturb_the_others(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    statuses = [(await door.post(connection.webhook_token, body)).status for body in (BODY, b"nonsense", BODY)]
    assert statuses == [200, 400, 200]
    assert [event.status for event in await practice.stored()] == ["pending", "parked", "pending"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
async def test_the_content_type_is_never_judged(
    door: Door, practice: Practice, connection: AddedConnection, content_type: str
) -> None:
    answer = await door.post(connection.webhook_token, headers={"Content-Type": content_type})
    assert answer.status == 200
    [event] = await practice.stored()
    assert event.headers["content-type"] == content_type


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(gzip.compress(BODY), id="gzip"),
        pytest.param(b"not gzip at all", id="no gzip"),
        pytest.param(gzip.compress(b"\x00" * (200 * MIB), compresslevel=9), id="bomb"),
    ],
)
async def test_a_compressed_body_is_stored_as_received(
    door: Door, practice: Practice, connection: AddedConnection, body: bytes
) -> None:
    answer = await door.post(connection.webhook_token, body, headers={"Content-Encoding": "gzip"})
    assert answer.status == 200
    [event] = await practice.stored()
    assert (event.status, event.body, event.headers["content-encoding"]) == ("pending", body, "gzip")


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_one_mib_is_answered_413_and_not_stored(
    door: Door, practice: Practice, connection: AddedConnection, size: int, is_chunked: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 65536):
            yield b"x" * min(65536, size - start)

    answer = await door.post(connection.webhook_token, chunks() if is_chunked else BytesIO(b"x" * size))
    assert (answer.status, answer.json["details"]["error_type"]) == (413, "body_too_large")
    assert await practice.stored_ids() == []


@pytest.mark.parametrize("path", ["/api/webhooks/intakeq", "/api/webhooks/intakeq?token=", "/api/webhooks/intakeq?t=1"])
async def test_a_missing_token_is_answered_401(door: Door, practice: Practice, path: str) -> None:
    answer = await door.send("POST", path, data=BODY)
    assert (answer.status, answer.json["details"]["error_type"]) == (401, "missing_token")
    assert await practice.stored_ids() == []


@pytest.mark.parametrize("token", ["wrong", "%00", "%FF", "a%20b", "'%20OR%201=1", "x" * 4000])
async def test_a_wrong_token_is_answered_401_and_leaves_evidence_without_a_body(
    door: Door, practice: Practice, pool: Database, token: str, connection: AddedConnection
) -> None:
    answer = await door.post(token)
    assert (answer.status, answer.json["details"]["error_type"]) == (401, "unknown_token")
    assert "test.client" not in answer.text
    assert await practice.stored_ids() == []
    await door.refusals.run_once()
    [refused] = await RefusalCounts(pool).since(utc_now() - timedelta(hours=2))
    assert (refused.vendor, refused.reason, refused.count) == ("intakeq", "unknown_token", 1)


async def test_an_unknown_vendor_is_answered_404(door: Door, connection: AddedConnection) -> None:
    answer = await door.send("POST", f"/api/webhooks/nobody/{connection.webhook_token}", data=BODY)
    assert (answer.status, answer.json["details"]["error_type"]) == (404, "unknown_vendor")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/webhooks/intakeq/t", 405), ("PUT", "/api/webhooks/intakeq/t", 405), ("POST", "/elsewhere", 404)],
)
async def test_other_methods_and_paths_are_answered_in_the_shape_of_every_error(
    door: Door, method: str, path: str, status: int
) -> None:
    answer = await door.send(method, path)
    assert answer.status == status
    assert answer.json.keys() == {"success", "error", "details", "timestamp"}


async def test_a_token_of_another_vendors_connection_is_answered_401(
    door: Door, database: asyncpg.Connection, practice: Practice, connection: AddedConnection
) -> None:
    await database.execute("UPDATE connections SET vendor = 'cliniko'")
    await door.book.refresh()
    answer = await door.post(connection.webhook_token)
    assert (answer.status, answer.json["details"]["error_type"]) == (401, "wrong_vendor")
    assert await practice.stored_ids() == []


async def test_both_tokens_work_while_a_rotation_overlaps_and_the_earlier_one_not_after_it(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    token = await practice.tokens.rotate(connection.id, None, utc_now(), timedelta(hours=1))
    assert [(await door.post(each)).status for each in (connection.webhook_token, token)] == [200, 200]

    latest = await practice.tokens.rotate(connection.id, None, utc_now(), timedelta(0))
    await door.book.refresh()
    answers = [await door.post(each) for each in (connection.webhook_token, token, latest)]
    assert [answer.status for answer in answers] == [401, 401, 200]


async def test_a_token_that_expires_in_the_doors_memory_is_refused_at_once(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    token = await practice.tokens.rotate(connection.id, None, utc_now(), timedelta(milliseconds=300))
    assert (await door.post(connection.webhook_token)).status == 200
    refused = None
    while refused is None or refused.status == 200:
        refused = await door.post(connection.webhook_token)
    assert refused.status == 401
    assert refused.json["details"]["error_type"] in ("expired_token", "unknown_token")
    assert (await door.post(token)).status == 200


async def test_a_disabled_connection_lets_nobody_in(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    assert (await door.post(connection.webhook_token)).status == 200
    await practice.disable(connection)
    await door.book.refresh()
    assert (await door.post(connection.webhook_token)).status == 401


async def test_a_token_issued_just_now_works_for_many_requests_at_once(
    database_url: str, keyring: Keyring, tmp_path: Path, practice: Practice
) -> None:
    async with open_door(database_url, keyring, tmp_path) as door:
        connection = await practice.connect()
        answers = await gathered(door, [connection.webhook_token] * 40)
    assert {answer.status for answer in answers} == {200}


async def test_429_is_only_for_callers_without_a_valid_token(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    strangers = await gathered(door, [f"guess-{number}" for number in range(120)])
    assert {answer.status for answer in strangers} == {401, 429}
    turned_away = next(answer for answer in strangers if answer.status == 429)
    assert int(turned_away.headers["Retry-After"]) >= 1

    fresh = await practice.connect()
    mixed = await gathered(door, ["guess", connection.webhook_token, "guess-2", fresh.webhook_token] * 20)
    assert {answer.status for answer in mixed[1::2]} == {200}


SECRETS = ("first secret", "second secret")
SIGNED = HmacCheck("X-Signature", SECRETS, SignatureEncoding.HEX, "sha256=")


def digest(secret: str, body: bytes = BODY) -> bytes:
    return hmac.digest(secret.encode(), body, hashlib.sha256)


@pytest.mark.parametrize(
    ("check", "signature"),
    [
        (SIGNED, "sha256=" + digest("first secret").hex()),
        (SIGNED, "sha256=" + digest("second secret").hex()),
        (SIGNED, "sha256=" + digest("first secret").hex().upper()),
        (HmacCheck("x-signature", SECRETS), digest("first secret").hex()),
        (
            HmacCheck("X-Signature", SECRETS, SignatureEncoding.BASE64),
            base64.b64encode(digest("second secret")).decode(),
        ),
    ],
)
async def test_a_right_signature_lets_in(door: Door, practice: Practice, check: HmacCheck, signature: str) -> None:
    connection = await practice.connect(hmac=check)
    answer = await door.post(connection.webhook_token, headers={"X-Signature": signature})
    assert answer.status == 200
    [event] = await practice.stored()
    assert event.headers["x-signature"] == "[masked]"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Signature": ""},
        {"X-Signature": "sha256="},
        {"X-Signature": digest("first secret").hex()},
        {"X-Signature": "sha256=" + digest("another secret").hex()},
        {"X-Signature": "sha256=" + digest("first secret", b"another body").hex()},
        {"X-Signature": "sha256=" + base64.b64encode(digest("first secret")).decode()},
        {"X-Other": "sha256=" + digest("first secret").hex()},
    ],
)
async def test_a_wrong_or_missing_signature_is_answered_401(
    door: Door, practice: Practice, headers: dict[str, str]
) -> None:
    connection = await practice.connect(hmac=SIGNED)
    answer = await door.post(connection.webhook_token, headers=headers)
    assert (answer.status, answer.json["details"]["error_type"]) == (401, "wrong_signature")
    assert await practice.stored_ids() == []


async def test_a_signature_given_twice_is_none(door: Door, practice: Practice) -> None:
    connection = await practice.connect(hmac=SIGNED)
    signature = "sha256=" + digest("first secret").hex()
    headers = [("X-Signature", signature), ("X-Signature", signature)]
    assert (await door.post(connection.webhook_token, headers=headers)).status == 401


@pytest.mark.parametrize(
    ("trusted", "forwarded", "status"),
    [
        pytest.param((), None, 401, id="another address"),
        pytest.param((), ["203.0.113.7"], 401, id="what a caller says of itself"),
        pytest.param(("127.0.0.0/8",), ["203.0.113.7"], 200, id="what our proxy says"),
        pytest.param(("127.0.0.1",), ["203.0.113.7, 198.51.100.9"], 401, id="what a caller told our proxy"),
        pytest.param(("127.0.0.1",), ["203.0.113.7", "198.51.100.9"], 401, id="the same in a line of its own"),
        pytest.param(("127.0.0.1", "10.0.0.0/8"), ["198.51.100.9, 203.0.113.7, 10.1.2.3"], 200, id="two proxies"),
        pytest.param(("127.0.0.1",), ["203.0.113.7:4711"], 200, id="with a port"),
        pytest.param(("127.0.0.1",), ["::ffff:203.0.113.7"], 200, id="IPv4 within IPv6"),
        pytest.param(("127.0.0.1",), ["[2001:db8::7]:4711"], 200, id="IPv6 with a port"),
        pytest.param(("127.0.0.1",), ["unknown"], 401, id="no address"),
        pytest.param(("127.0.0.1",), [" , ,"], 401, id="nothing"),
    ],
)
async def test_an_address_list_believes_trusted_proxies_only(
    database_url: str,
    keyring: Keyring,
    tmp_path: Path,
    practice: Practice,
    trusted: tuple[str, ...],
    forwarded: list[str] | None,
    status: int,
) -> None:
    connection = await practice.connect(allowed_networks=("203.0.113.0/24", "2001:db8::/32"))
    headers = [("X-Forwarded-For", value) for value in forwarded or []]
    async with open_door(database_url, keyring, tmp_path, Limits(trusted_networks=trusted)) as door:
        answer = await door.post(connection.webhook_token, headers=headers)
    assert answer.status == status
    assert len(await practice.stored_ids()) == (1 if status == 200 else 0)


async def test_an_allowed_address_comes_in_without_a_proxy(door: Door, practice: Practice) -> None:
    connection = await practice.connect(allowed_networks=("127.0.0.1",))
    assert (await door.post(connection.webhook_token)).status == 200


async def test_credentials_in_headers_are_masked_in_what_is_stored(
    door: Door, practice: Practice, connection: AddedConnection
) -> None:
    secrets = {
        "Authorization": "Bearer secret-1",
        "Cookie": "session=secret-2",
        "Proxy-Authorization": "Basic secret-3",
        "X-Auth-Key": "secret-4",
        "X-Api-Key": "secret-5",
        "X-Gateway-Token": "secret-6",
        "X-Hub-Signature-256": "sha256=secret-7",
        "X-Original-URI": f"/api/webhooks/intakeq/{connection.webhook_token}",
    }
    answer = await door.post(connection.webhook_token, headers=secrets | {"X-Request-Id": "kept"})
    assert answer.status == 200
    [event] = await practice.stored()
    assert event.headers["x-request-id"] == "kept"
    assert event.headers["x-original-uri"] == "/api/webhooks/intakeq/[masked]"
    told = repr(dict(event.headers))
    assert "secret-" not in told
    assert connection.webhook_token not in told


async def test_two_connections_events_stay_apart(door: Door, practice: Practice) -> None:
    first, second = await practice.connect(), await practice.connect()
    await door.post(first.webhook_token)
    await door.post(second.webhook_token)
    assert [event.connection_id for event in await practice.stored()] == [first.id, second.id]


async def test_a_connection_whose_secrets_do_not_open_loses_no_webhook(
    door: Door, practice: Practice, database: asyncpg.Connection, connection: AddedConnection
) -> None:
    sealed_elsewhere = Keyring([b"o" * 32]).seal(b"{}", f"connection:{uuid4()}:hmac")
    await database.execute("UPDATE connections SET hmac_sealed = $1", sealed_elsewhere)
    await door.book.refresh()
    answer = await door.post(connection.webhook_token)
    assert answer.status == 200
    assert door.spool.stats.unverified_count == 1


async def gathered(door: Door, tokens: list[str]) -> list[Answer]:
    return await asyncio.gather(*(door.post(token) for token in tokens))
