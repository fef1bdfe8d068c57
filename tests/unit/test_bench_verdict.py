"""The benchmark's verdict on real databases: whatever is lost, doubled, left or wrong there is found, and named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from eventsync.bench.ends import wait_for_ends
from eventsync.bench.load import closed_loop
from eventsync.bench.specimens import appointment_id, mixed_webhooks
from eventsync.bench.trial import accepted_bodies
from eventsync.bench.verdict import Verdict, verify
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.settings import Settings
from eventsync.vendors import load_vendors
from eventsync.wiring import Role, utc_now
from eventsync.wiring.process import ProcessOptions, open_process

EVENTS = 20


@dataclass(frozen=True, slots=True)
class Applied:
    """Webhooks that the product has taken and applied."""

    connection_id: ConnectionId
    accepted: dict[UUID, bytes]

    @property
    def event_ids(self) -> list[UUID]:
        """The events, in the order in which they were sent."""
        return list(self.accepted)


@pytest.fixture
async def applied(pool: Database, database_url: str, keyring: Keyring, tmp_path: Path) -> Applied:
    """Let the product take and apply EVENTS webhooks, and stop it."""
    organization = await Organizations(pool).add("Test Practice", None, utc_now())
    new = NewConnection(organization_id=organization.id, vendor="intakeq", api_key="k", base_url="http://127.0.0.1:9")
    added = await Connections(pool, keyring, load_vendors()).add(new, utc_now())
    bodies = mixed_webhooks(EVENTS, version_ms=1_744_725_029_020)
    roles = frozenset(Role)
    options = ProcessOptions(Settings(data_dir=tmp_path), roles, database_url, keyring, port=0)
    async with open_process(options) as process, process.running():
        url = f"{process.servers[0].address}/api/webhooks/intakeq/{added.webhook_token}"
        load = await closed_loop(url, bodies, connections=4)
        await wait_for_ends(pool, EVENTS, stalled_after_s=20, on_progress=lambda _: None)
    return Applied(added.id, accepted_bodies(load, bodies))


async def verdict(pool: Database, applied: Applied) -> Verdict:
    return await verify(pool, applied.connection_id, applied.accepted)


async def test_where_every_webhook_took_effect_once_nothing_is_wrong(pool: Database, applied: Applied) -> None:
    assert len(applied.accepted) == EVENTS
    assert await verdict(pool, applied) == Verdict()
    assert (await verdict(pool, applied)).is_good


async def test_a_lost_event_is_found(pool: Database, applied: Applied, database: asyncpg.Connection) -> None:
    lost = applied.event_ids[7]
    await database.execute("DELETE FROM event_history WHERE event_id = $1", lost)
    found = await verdict(pool, applied)
    assert found == Verdict(lost=(str(lost),))
    assert not found.is_good


async def test_an_event_that_ended_twice_is_found(
    pool: Database, applied: Applied, database: asyncpg.Connection
) -> None:
    doubled = applied.event_ids[3]
    await database.execute(
        "INSERT INTO event_history SELECT (jsonb_populate_record(h, jsonb_build_object("
        "'received_at', h.received_at + interval '1 ms', 'outcome', 'unchanged'))).*"
        " FROM event_history h WHERE event_id = $1",
        doubled,
    )
    assert await verdict(pool, applied) == Verdict(doubled=(str(doubled),))


async def test_a_change_that_was_applied_twice_is_found(
    pool: Database, applied: Applied, database: asyncpg.Connection
) -> None:
    other = UUID(int=5)
    await database.execute(
        "INSERT INTO event_history SELECT (jsonb_populate_record(h, jsonb_build_object('event_id', $2::uuid))).*"
        " FROM event_history h WHERE event_id = $1",
        applied.event_ids[0],
        other,
    )
    found = await verdict(pool, applied)
    assert set(found.doubled) == {str(applied.event_ids[0]), str(other)}


async def test_what_is_left_in_the_queue_is_found(
    pool: Database, applied: Applied, database: asyncpg.Connection
) -> None:
    left = UUID(int=9)
    await database.execute(
        "INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, status, reason, available_at)"
        " VALUES ($1, now(), $2, 'intakeq', 'webhook', 'parked', 'broken', now())",
        left,
        applied.connection_id,
    )
    assert await verdict(pool, applied) == Verdict(left=(str(left),))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE appointments SET start_time = start_time - interval '1 min' WHERE external_id = $1",
        "UPDATE appointments SET source_version = source_version - interval '1 ms' WHERE external_id = $1",
        "UPDATE appointments SET price = price + 0.01 WHERE external_id = $1",
        "UPDATE appointments SET deleted_at = now() WHERE external_id = $1",
        "DELETE FROM appointments WHERE external_id = $1",
    ],
)
async def test_a_row_that_is_not_the_last_version_sent_is_found(
    pool: Database, applied: Applied, database: asyncpg.Connection, change: str
) -> None:
    await database.execute(change, appointment_id(2))
    assert await verdict(pool, applied) == Verdict(wrong_rows=(appointment_id(2),))


async def test_waiting_ends_once_nothing_moves_any_more(pool: Database) -> None:
    told: list[int] = []
    await wait_for_ends(pool, 1, stalled_after_s=0.3, on_progress=told.append)
    assert len(told) > 1
