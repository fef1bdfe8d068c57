"""What has gathered in a database before it is measured: old events, parked ones, a backlog; made in SQL, once a run.

Each state is made in a database of its own, and every run gets a copy of that. Sizes are shares of what the targets
ask for: all of it, unless the environment variable BENCH_SCALE says otherwise (0.01 makes 10 million 100,000).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.contest import Place
from eventsync.postgres.database import Database
from eventsync.postgres.retention import Retention
from eventsync.wiring import utc_now

SCALE = "BENCH_SCALE"
OLD_EVENTS, PARKED_EVENTS, PENDING_EVENTS = 10_000_000, 100_000, 1_000_000

_WEEKS = 50  # of the 400 days that the history is kept
_PARKED_DAYS = 14
_RAW_KEPT, _HISTORY_KEPT = timedelta(days=30), timedelta(days=400)  # the product's own
_CONNECT_TIMEOUT_S = 10
# $1 and $2: the first and the number after the last; $3 and $4: the times between which they were received.
_TIMES = """
SELECT n, t, (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '70008000'
              || lpad(to_hex(n), 12, '0'))::uuid AS id
FROM generate_series($1::bigint, $2::bigint - 1) AS n,
     LATERAL (SELECT $3::timestamptz + ($4::timestamptz - $3::timestamptz) * (n - $1) / ($2 - $1)) AS at(t)
"""
_INSERT_HISTORY = """
INSERT INTO event_history (event_id, received_at, connection_id, vendor, source, event_type, entity_kind, entity_id,
                           entity_version, outcome, changed_fields, attempts, finished_at)
SELECT id, t, '00000000-0000-4000-8000-000000000001', 'intakeq', 'webhook', 'AppointmentRescheduled', 'appointment',
       'aa' || lpad(to_hex(n * 7919 % 1000000), 22, '0'), (extract(epoch FROM t) * 1000)::bigint, 'applied',
       '{start_time,end_time}', 1, t + interval '10 ms'
FROM numbered
"""
_INSERT_EVENTS = """
INSERT INTO events (id, received_at, connection_id, vendor, source, headers_sealed, body_sealed, body_bytes)
SELECT id, t, '00000000-0000-4000-8000-000000000001', 'intakeq', 'webhook', decode(repeat('0f', 200), 'hex'),
       decode(repeat('0123456789abcdef', 190), 'hex'), 1520
FROM numbered
"""
_INSERT_QUEUED = """
INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, status, reason, available_at)
SELECT id, t, '00000000-0000-4000-8000-000000000001', 'intakeq', 'webhook', $5, $6, t
FROM numbered
"""
HISTORY = f"WITH numbered AS ({_TIMES}) {_INSERT_HISTORY}"  # made of constants
EVENTS = f"WITH numbered AS ({_TIMES}) {_INSERT_EVENTS}"  # made of constants
QUEUED = f"WITH numbered AS ({_TIMES}) {_INSERT_QUEUED}"  # made of constants


def scaled(count: int) -> int:
    """Give the share of `count` that this run asks for."""
    return max(1, int(count * float(os.environ.get(SCALE, "1"))))


async def fill_with_history(connection: asyncpg.Connection) -> None:
    """Put finished events into the weeks that are kept, and vacuum them, as PostgreSQL would have by now."""
    now, count = utc_now(), scaled(OLD_EVENTS)
    began = now - timedelta(weeks=_WEEKS)
    await connection.execute("SELECT ensure_event_partitions($1, $2)", began, now)
    edges = [began + timedelta(weeks=week) for week in range(_WEEKS)] + [now - timedelta(days=1)]
    for week in range(_WEEKS):
        first, end = count * week // _WEEKS, count * (week + 1) // _WEEKS
        await connection.execute(HISTORY, first, end, edges[week], edges[week + 1])
    await connection.execute("VACUUM ANALYZE event_history")


async def fill_with_parked(connection: asyncpg.Connection) -> None:
    """Put events there that wait for a person, their requests with them."""
    now, count = utc_now(), scaled(PARKED_EVENTS)
    began, ended = now - timedelta(days=_PARKED_DAYS), now - timedelta(days=1)
    await connection.execute("SELECT ensure_event_partitions($1, $2)", began, now)
    await connection.execute(EVENTS, 0, count, began, ended)
    await connection.execute(QUEUED, 0, count, began, ended, "parked", "not_understood")
    await connection.execute("VACUUM ANALYZE events, event_queue")


async def fill_with_backlog(connection: asyncpg.Connection) -> None:
    """Put events there that are due and were never published, all of the last hour; their requests with them."""
    now, count = utc_now(), scaled(PENDING_EVENTS)
    began = now - timedelta(hours=1)
    await connection.execute("SELECT ensure_event_partitions($1, $2)", began - timedelta(days=1), now)
    await connection.execute(EVENTS, 0, count, began, now)
    await connection.execute(QUEUED, 0, count, began, now, "pending", None)
    await connection.execute("VACUUM ANALYZE events, event_queue")


_FILLS: Mapping[str, Callable[[asyncpg.Connection], Awaitable[None]]] = {
    "history": fill_with_history,
    "parked": fill_with_parked,
    "backlog": fill_with_backlog,
}


def begin_with(state: str) -> Callable[[Place], Awaitable[None]]:
    """Make what a contender runs before its clock: its fresh database gives way to a copy of one in this state."""

    async def prepare(place: Place) -> None:
        async with _connected(place.database_url, "postgres") as connection:
            template = f"flat_cost_{state}"
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", template):
                await _make_template(connection, place.database_url, state, template)
            name = urlsplit(place.database_url).path.strip("/")
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')

    return prepare


async def _make_template(connection: asyncpg.Connection, url: str, state: str, template: str) -> None:
    unfinished = f"{template}_unfinished"
    name = urlsplit(url).path.strip("/")
    await connection.execute(f'DROP DATABASE IF EXISTS "{unfinished}" WITH (FORCE)')
    await connection.execute(f'CREATE DATABASE "{unfinished}" TEMPLATE "{name}"')
    async with _connected(url, unfinished) as filling:
        await _FILLS[state](filling)
    database = Database(_url_of(url, unfinished), max_connections=1)
    await database.open()
    now = utc_now()
    await Retention(database).remove_expired(raw_before=now - _RAW_KEPT, history_before=now - _HISTORY_KEPT)
    await database.close()
    await connection.execute(f'ALTER DATABASE "{unfinished}" RENAME TO "{template}"')


@asynccontextmanager
async def _connected(url: str, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(_url_of(url, database), timeout=_CONNECT_TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)


def _url_of(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
