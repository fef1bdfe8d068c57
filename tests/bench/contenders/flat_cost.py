"""The whole path of one `eventsync run` over its in-process bus, in a database where much has gathered.

Events are stored beforehand, older than everything that waits there, so that they come first; then eventsync is
started. What counts is how fast they end from the commit of the warm-up's last to that of the last one, by
PostgreSQL's own commit timestamps. With `--arrivals yes` fresh events are stored meanwhile, a few hundred a second.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bench.child import python, running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import CPU_SECONDS, LOST, MEMORY_MB, Figures, Measure
from bench.practice import Practice, add_practice, bench_keyring, store_appointments
from e2e.eventsync_process import environment
from eventsync.bench.specimens import appointment_webhooks
from eventsync.bench.usage import UsageWatch
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.events import new_event_id, received_at_of
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from eventsync.stages.incoming import incoming
from eventsync.wiring import utc_now
from servers.ports import free_ports

POSTGRES_CPU_SECONDS = Measure("postgres_cpu_seconds", "PostgreSQL CPU s", 2)

_GROUP_EVENTS = 500
_HEADERS = (("Host", "sync.example.test"), ("Content-Type", "application/json"), ("Content-Length", "1500"))
_RECEIVED_BEFORE = timedelta(hours=2)  # before the backlog, which is of the last hour
_ARRIVING_EVENTS, _ARRIVE_EVERY_S = 20, 0.1
_STALLED_AFTER_S = 60.0
_POLL_S = 0.2
_ENDED = "SELECT count(*) FROM event_history WHERE connection_id = $1 AND received_at BETWEEN $2 AND $3"
_FIGURES = """
WITH ended AS (
    SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
    FROM event_history WHERE connection_id = $1 AND received_at BETWEEN $2 AND $3
), began AS (
    SELECT at FROM ended ORDER BY at OFFSET $4 - 1 LIMIT 1
)
SELECT count(*) AS events, max(ended.at) - min(began.at) AS seconds FROM ended JOIN began ON ended.at > began.at
"""


@dataclass(frozen=True, slots=True)
class _Stored:
    """The measured events: whose they are, when the first and the last of them were received."""

    practice: Practice
    first_at: datetime
    last_at: datetime

    @property
    def arguments(self) -> tuple[object, ...]:
        """What the statements ask for them by."""
        return self.practice.connection_id, self.first_at, self.last_at


async def work(assignment: Assignment) -> Figures:
    """Store, start eventsync, and wait until the events have ended."""
    database = Database(assignment.database_url, max_connections=2)
    await database.open()
    queue = EventQueue(database, bench_keyring())
    total = WARM_UP_EVENTS + assignment.events
    stored = await _store(queue, await add_practice(database), total)
    (port,) = free_ports(1)
    command = python("eventsync", "eventsync", "run", "--port", str(port))
    settings = environment(Path.cwd() / "eventsync", assignment.database_url)
    async with (
        running(command, settings, ready_url=f"http://127.0.0.1:{port}/readyz") as process,
        _arrivals(queue, stored.practice, total, wanted=assignment.options.arrivals == "yes"),
    ):
        watch = UsageWatch({"eventsync": process.pid}, {"PostgreSQL": await _postmaster_pid(database)})
        await _until_ended(database, stored, total)
        spent = {each.name: each for each in watch.spent()}
    async with database.session() as session:
        row = await session.fetchrow(_FIGURES, *stored.arguments, WARM_UP_EVENTS)
        lost = total - await session.fetchval(_ENDED, *stored.arguments)
    await database.close()
    return dict(row) | {
        LOST.name: lost,
        CPU_SECONDS.name: spent["eventsync"].cpu_seconds,
        POSTGRES_CPU_SECONDS.name: spent["PostgreSQL"].cpu_seconds,
        MEMORY_MB.name: spent["eventsync"].memory_end_mb,
    }


async def _postmaster_pid(database: Database) -> int:
    """Find the server's first process, whose children are all the others: our backend's parent (proc(5), stat)."""
    async with database.session() as session:
        return _parent_of(await session.fetchval("SELECT pg_backend_pid()"))


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


async def _store(queue: EventQueue, practice: Practice, total: int) -> _Stored:
    verifier = WebhookVerifier(b"", practice.connection_id, "intakeq")
    events = [
        incoming(new_event_id(utc_now() - _RECEIVED_BEFORE, secrets.token_bytes(10)), verifier, _HEADERS, body)
        for body in appointment_webhooks(total, version_ms=int(time.time() * 1000))
    ]
    for start in range(0, total, _GROUP_EVENTS):
        await queue.store(events[start : start + _GROUP_EVENTS])
    return _Stored(practice, received_at_of(events[0].id), received_at_of(events[-1].id))


@asynccontextmanager
async def _arrivals(queue: EventQueue, practice: Practice, first_number: int, *, wanted: bool) -> AsyncIterator[None]:
    """Store fresh events during the block."""

    async def arrive() -> None:
        number = first_number
        while True:
            await store_appointments(queue, practice, _ARRIVING_EVENTS, first_number=number)
            number += _ARRIVING_EVENTS
            await asyncio.sleep(_ARRIVE_EVERY_S)

    task = asyncio.create_task(arrive() if wanted else asyncio.sleep(0))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _until_ended(database: Database, stored: _Stored, total: int) -> None:
    """Wait for the last of them. Raises RuntimeError where nothing ends any more."""
    seen, moved_at = -1, time.monotonic()
    async with database.session() as session:
        while seen < total:
            ended = await session.fetchval(_ENDED, *stored.arguments)
            if ended > seen:
                seen, moved_at = ended, time.monotonic()
            elif time.monotonic() - moved_at > _STALLED_AFTER_S:
                raise RuntimeError(f"stalled at {ended} of {total}")
            await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    contend(work, ["arrivals"])
