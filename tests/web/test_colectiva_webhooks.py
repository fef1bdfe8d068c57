"""Colectiva's own webhooks: signed, stored, shown, and without any effect on records."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId, HmacCheck, WebhookVerifier
from eventsync.postgres.connection_signatures import HmacChange
from eventsync.postgres.database import Database
from eventsync.postgres.records import RecordWriter
from eventsync.postgres.tenants import (
    AddedConnection,
    ConnectionChanges,
    Connections,
    NewConnection,
    Organizations,
)
from eventsync.stages.apply import Applier
from eventsync.stages.directory import ConnectionDirectory
from eventsync.vendors import load_vendors
from eventsync.vendors.colectiva import VENDOR
from servers.eventually import eventually
from web.webhook_door import Answer, Door, Practice, open_door, utc_now

SECRET = "invented-webhook-secret"
SUCCESSOR = "invented-successor"
HEADER = "x-colectiva-signature"
BODY = (resources.files("eventsync.vendors.colectiva") / "samples" / "escrow_created.json").read_bytes()


@pytest.fixture
async def door(database_url: str, keyring: Keyring, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(database_url, keyring, tmp_path) as door:
        yield door


@pytest.fixture
def practice(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Practice:
    return Practice(pool, database, keyring)


@pytest.fixture
def connections(pool: Database, keyring: Keyring) -> Connections:
    return Connections(pool, keyring, load_vendors())


async def connect(pool: Database, connections: Connections, check: HmacCheck | None) -> AddedConnection:
    organization = await Organizations(pool).add("Plenura", "plenura", utc_now())
    return await connections.add(NewConnection(organization.id, "colectiva", "invented-key", hmac=check), utc_now())


@pytest.fixture
async def signed(pool: Database, connections: Connections) -> AddedConnection:
    """A connection whose webhooks must carry Colectiva's own signature."""
    form = VENDOR.webhook_signature
    assert form is not None
    return await connect(pool, connections, HmacCheck(form.header, (SECRET,), prefix=form.prefix))


def signature(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def send(door: Door, connection: AddedConnection, headers: dict[str, str], body: bytes = BODY) -> Answer:
    path = f"/api/webhooks/colectiva/{connection.webhook_token}"
    return await door.send("POST", path, data=body, headers=headers)


async def apply(door: Door, connections: Connections, keyring: Keyring, answer: Answer) -> None:
    async def load(connection_id: ConnectionId) -> Any:
        return next(found for found in await connections.load_connections() if found.id == connection_id)

    directory = ConnectionDirectory(load, door.listener)
    applier = Applier(door.queue, RecordWriter(keyring), load_vendors(), directory, door.metrics, utc_now)
    await applier.apply([answer.event_id])


async def ended(database: asyncpg.Connection, answer: Answer) -> tuple[str, str | None]:
    row = await database.fetchrow("SELECT outcome, event_type FROM event_history WHERE event_id = $1", answer.event_id)
    assert row is not None, "the event has not ended"
    return row["outcome"], row["event_type"]


async def test_a_rightly_signed_webhook_is_stored_and_ends_as_unchanged_under_its_events_name(
    door: Door,
    practice: Practice,
    connections: Connections,
    signed: AddedConnection,
    keyring: Keyring,
    database: asyncpg.Connection,
) -> None:
    answer = await send(door, signed, {HEADER: signature(BODY)})
    assert answer.status == 200
    [event] = await practice.stored()
    assert (event.id, event.connection_id, event.status, event.body) == (answer.event_id, signed.id, "pending", BODY)
    await apply(door, connections, keyring, answer)
    assert await ended(database, answer) == ("unchanged", "escrow.created")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({HEADER: ""}, id="empty"),
        pytest.param({HEADER: signature(BODY, "another secret")}, id="by another secret"),
        pytest.param({HEADER: signature(BODY + b" ")}, id="of another body"),
        pytest.param({HEADER: signature(BODY).removeprefix("sha256=")}, id="without prefix"),
        pytest.param({HEADER: signature(BODY).replace("sha256=", "sha1=")}, id="of another prefix"),
        pytest.param({HEADER: "sha256="}, id="prefix alone"),
        pytest.param({"x-signature": signature(BODY)}, id="in another header"),
    ],
)
async def test_a_webhook_that_is_not_rightly_signed_is_turned_away_and_not_stored(
    door: Door, practice: Practice, signed: AddedConnection, headers: dict[str, str]
) -> None:
    answer = await send(door, signed, headers)
    assert answer.status == 401
    assert await practice.stored_ids() == []


async def test_without_a_secret_the_token_is_enough(
    door: Door,
    pool: Database,
    connections: Connections,
    keyring: Keyring,
    database: asyncpg.Connection,
) -> None:
    unsigned = await connect(pool, connections, None)
    body = orjson.dumps({"event": "vault.opened", "data": {}})
    answer = await send(door, unsigned, {HEADER: "sha256=00"}, body)
    assert answer.status == 200
    await apply(door, connections, keyring, answer)
    assert await ended(database, answer) == ("unchanged", "vault.opened")


async def test_a_webhook_without_an_event_is_kept_as_parked(
    door: Door, practice: Practice, connections: Connections, signed: AddedConnection, keyring: Keyring
) -> None:
    body = b'{"data":{}}'
    answer = await send(door, signed, {HEADER: signature(body)}, body)
    assert answer.status == 200
    await apply(door, connections, keyring, answer)
    [event] = await practice.stored()
    assert (event.status, event.reason) == ("parked", "missing_field")


async def change(door: Door, connections: Connections, connection: AddedConnection, changes: ConnectionChanges) -> None:
    """Change the signature, and await that the door's spool has the change, sooner than its next reading by itself."""
    verifiers = await door.spool.verifiers()
    await connections.update(connection.id, changes, None, utc_now())
    await eventually(lambda: _is_news(door, verifiers), deadline_s=10)


async def _is_news(door: Door, verifiers: Sequence[WebhookVerifier]) -> bool:
    return await door.spool.verifiers() != verifiers


async def statuses(door: Door, connection: AddedConnection) -> list[int]:
    """Send one webhook without a signature, one by SECRET and one by its successor."""
    signings: list[dict[str, str]] = [{}, {HEADER: signature(BODY)}, {HEADER: signature(BODY, SUCCESSOR)}]
    return [(await send(door, connection, headers)).status for headers in signings]


async def test_a_signature_that_is_given_rotated_and_taken_away_holds_at_the_open_door_at_once(
    door: Door, pool: Database, connections: Connections
) -> None:
    connection = await connect(pool, connections, None)
    assert await statuses(door, connection) == [200, 200, 200]
    await eventually(door.spool.verifiers)
    for changes, expected in (
        (ConnectionChanges(hmac=HmacChange((SECRET,))), [401, 200, 401]),
        (ConnectionChanges(hmac=HmacChange((SECRET, SUCCESSOR))), [401, 200, 200]),
        (ConnectionChanges(hmac=HmacChange((SUCCESSOR,))), [401, 401, 200]),
        (ConnectionChanges(removes_hmac=True), [200, 200, 200]),
    ):
        await change(door, connections, connection, changes)
        assert await statuses(door, connection) == expected
