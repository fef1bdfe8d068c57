"""From webhook to visible row at a steady rate while a person replays many earlier events, or nobody does.

The replay is `eventsync events replay`, as users start it. With one (`--replays` above 0), only webhooks count that
were due while it went on: from the receipt of its first event to the commit of its last, by PostgreSQL's own commit
timestamps. `--bus` is `memory` (one process) or `rabbitmq` (ingress, relay, and consumer as three).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.child import python, running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import CPU_SECONDS, LOST, P50_MS, P99_MS, Figures, Measure
from bench.practice import Practice, add_practice, bench_keyring, store_appointments
from e2e.eventsync_process import environment
from eventsync.bench.load import LoadResult, closed_loop, open_loop
from eventsync.bench.specimens import appointment_webhooks
from eventsync.bench.usage import UsageWatch
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from servers.eventually import eventually
from servers.ports import free_ports

COUNTED = Measure("counted", "webhooks counted")
REPLAY_SECONDS = Measure("replay_seconds", "replay s", 1)

_RATE_PER_S = 100
_CONNECTIONS = 64
_SETTLES_WITHIN_S = 240.0
_ROLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "memory": {"eventsync": ()},
    "rabbitmq": {"ingress": ("ingress",), "relay": ("relay",), "consumer": ("consumer", "worker", "scheduler")},
}
_REPLAY = """
SELECT extract(epoch FROM min(received_at))::float8 AS began_at,
       extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 AS ended_at,
       count(*) AS events
FROM event_history WHERE source = 'replay'
"""
_LATENCIES = """
WITH ended AS (
    SELECT extract(epoch FROM pg_xact_commit_timestamp(h.xmin))::float8 AS committed_at, sent.due_at
    FROM event_history h JOIN unnest($1::uuid[], $2::float8[]) AS sent(id, due_at) ON h.event_id = sent.id
    WHERE h.outcome = 'applied'
)
SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY (committed_at - due_at) * 1000) AS latencies, count(*)
FROM ended
"""


@dataclass(frozen=True, slots=True)
class _Product:
    """The running processes, by what they do, and where webhooks go."""

    base_url: str
    pids: dict[str, int]


async def work(assignment: Assignment) -> Figures:
    """Send webhooks with or without a replay beside them, and ask PostgreSQL when each took effect."""
    replays = int(assignment.options.replays)
    database = Database(assignment.database_url, max_connections=2)
    await database.open()
    practice = await add_practice(database)
    async with _running(assignment) as product:
        await _originals(database, practice, max(replays, WARM_UP_EVENTS))
        url = product.base_url + practice.webhook_path
        version_ms = int(time.time() * 1000)
        bodies = appointment_webhooks(assignment.events + WARM_UP_EVENTS, first_number=10**6, version_ms=version_ms)
        await closed_loop(url, bodies[assignment.events :], connections=_CONNECTIONS)
        await _until_all_have_ended(database)
        watch = UsageWatch(product.pids, {})
        replay = asyncio.create_task(_replay(assignment, replays))
        result = await open_loop(url, bodies[: assignment.events], rate_per_s=_RATE_PER_S, connections=_CONNECTIONS)
        await replay
        await _until_all_have_ended(database)
        spent = watch.spent()
    figures = await _figures(database, result, replays)
    await database.close()
    return figures | {CPU_SECONDS.name: sum(each.cpu_seconds for each in spent)}


@asynccontextmanager
async def _running(assignment: Assignment) -> AsyncIterator[_Product]:
    processes = _ROLES[assignment.options.bus]
    ports = dict(zip(processes, free_ports(len(processes)), strict=True))
    pids = {}
    async with AsyncExitStack() as stack:
        for name, roles in processes.items():
            option = "--port" if not roles or "ingress" in roles else "--health-port"
            command = python(name, "eventsync", "run", *roles, option, str(ports[name]))
            settings = environment(Path.cwd() / name, assignment.database_url, assignment.amqp_url or None)
            process = await stack.enter_async_context(
                running(command, settings, ready_url=f"http://127.0.0.1:{ports[name]}/readyz")
            )
            pids[name] = process.pid
        yield _Product(f"http://127.0.0.1:{next(iter(ports.values()))}", pids)


async def _originals(database: Database, practice: Practice, count: int) -> None:
    await store_appointments(EventQueue(database, bench_keyring()), practice, count)
    await _until_all_have_ended(database)


async def _until_all_have_ended(database: Database) -> None:
    async def nothing_waits() -> bool:
        async with database.session() as session:
            return not await session.fetchval("SELECT EXISTS (SELECT FROM event_queue)")

    await eventually(nothing_waits, _SETTLES_WITHIN_S)


async def _replay(assignment: Assignment, count: int) -> None:
    """Replay the latest events as a person does. Raises RuntimeError where that fails."""
    if not count:
        return
    chosen = ("--type", "AppointmentCreated", "--limit", str(count), "--yes")
    settings = environment(Path.cwd() / "replay", assignment.database_url, assignment.amqp_url or None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventsync", "events", "replay", *chosen,
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        raise RuntimeError(f"the replay ended with {process.returncode}; see its output above")


async def _figures(database: Database, result: LoadResult, replays: int) -> dict[str, float]:
    due = {
        event_id: result.began_at_s + place / _RATE_PER_S
        for place, event_id in enumerate(result.event_ids)
        if event_id is not None
    }
    async with database.session() as session:
        replay = await session.fetchrow(_REPLAY)
        everything = await session.fetchrow(_LATENCIES, list(due), list(due.values()))
        if replays:
            due = {event_id: at for event_id, at in due.items() if replay["began_at"] <= at <= replay["ended_at"]}
        counted = await session.fetchrow(_LATENCIES, list(due), list(due.values()))
    return {
        "events": everything["count"],
        "seconds": result.seconds,
        P50_MS.name: counted["latencies"][0],
        P99_MS.name: counted["latencies"][1],
        COUNTED.name: counted["count"],
        REPLAY_SECONDS.name: replay["ended_at"] - replay["began_at"] if replays else 0,
        LOST.name: result.sent - everything["count"] + replays - replay["events"],
    }


if __name__ == "__main__":
    contend(work, ["replays", "bus"])
