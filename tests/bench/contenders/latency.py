"""From webhook to visible row over RabbitMQ: ingress, relay and consumer as three processes, at a fixed rate.

A row is visible when its transaction was committed, as PostgreSQL notes it. A webhook counts from when it was due to be
sent, so that nothing between is left out (`p50_ms`, `p99_ms`). Two further figures tell the parts: from its receipt at
the door, to the millisecond (`p99_received_ms`), and from when it was due to the door's answer (`p99_post_ms`). All
clocks are this machine's. `--rate` is webhooks a second; the load lasts as long as `--events` do at 100 a second.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.child import python, running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import CPU_SECONDS, LOST, MEMORY_MB, P50_MS, P99_MS, Figures
from bench.practice import add_practice
from e2e.eventsync_process import environment
from eventsync.bench.load import LoadResult, closed_loop, open_loop
from eventsync.bench.specimens import appointment_webhooks
from eventsync.bench.usage import UsageWatch
from eventsync.postgres.database import Database
from servers.eventually import eventually
from servers.ports import free_ports

_CONNECTIONS = 64
_SETTLES_WITHIN_S = 60.0
_BASE_RATE_PER_S = 100
_ROLES = ("ingress", "relay", "consumer")
_LATENCIES = """
WITH ended AS (
    SELECT extract(epoch FROM pg_xact_commit_timestamp(h.xmin))::float8 AS committed_at, sent.due_at,
           extract(epoch FROM h.received_at)::float8 AS received_at
    FROM event_history h JOIN unnest($1::uuid[], $2::float8[]) AS sent(id, due_at) ON h.event_id = sent.id
    WHERE h.outcome = 'applied'
)
SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY (committed_at - due_at) * 1000) AS from_due,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY (committed_at - received_at) * 1000) AS from_receipt,
       count(*)
FROM ended
"""


@dataclass(frozen=True, slots=True)
class _Running:
    """The three processes, by their roles, and where webhooks go."""

    base_url: str
    pids: dict[str, int]


async def work(assignment: Assignment) -> Figures:
    """Send at the rate, wait until everything has ended, and ask PostgreSQL when that was."""
    rate_per_s = int(assignment.options.rate)
    database = Database(assignment.database_url, max_connections=1)
    await database.open()
    practice = await add_practice(database)
    version_ms = int(time.time() * 1000)
    count = assignment.events * rate_per_s // _BASE_RATE_PER_S
    bodies = appointment_webhooks(count, first_number=WARM_UP_EVENTS, version_ms=version_ms)
    async with _three_processes(assignment) as product:
        url = product.base_url + practice.webhook_path
        await closed_loop(url, appointment_webhooks(WARM_UP_EVENTS, version_ms=version_ms), connections=_CONNECTIONS)
        await _until_all_have_ended(database)
        watch = UsageWatch(product.pids, {})
        result = await open_loop(url, bodies, rate_per_s=rate_per_s, connections=_CONNECTIONS)
        await _until_all_have_ended(database)
        spent = watch.spent()
    figures = await _figures(database, result, rate_per_s)
    await database.close()
    usage = {CPU_SECONDS.name: sum(each.cpu_seconds for each in spent)}
    return figures | usage | {MEMORY_MB.name: max(each.memory_end_mb for each in spent)}


@asynccontextmanager
async def _three_processes(assignment: Assignment) -> AsyncIterator[_Running]:
    ports = dict(zip(_ROLES, free_ports(len(_ROLES)), strict=True))
    pids = {}
    async with AsyncExitStack() as stack:
        for role, port in ports.items():
            option = "--port" if role == "ingress" else "--health-port"
            command = python(role, "eventsync", "run", role, option, str(port))
            settings = environment(Path.cwd() / role, assignment.database_url, assignment.amqp_url)
            process = await stack.enter_async_context(
                running(command, settings, ready_url=f"http://127.0.0.1:{port}/readyz")
            )
            pids[role] = process.pid
        yield _Running(f"http://127.0.0.1:{ports['ingress']}", pids)


async def _until_all_have_ended(database: Database) -> None:
    async def nothing_waits() -> bool:
        async with database.session() as session:
            return not await session.fetchval("SELECT EXISTS (SELECT FROM event_queue)")

    await eventually(nothing_waits, _SETTLES_WITHIN_S)


async def _figures(database: Database, result: LoadResult, rate_per_s: int) -> dict[str, float]:
    sent = [(event_id, place) for place, event_id in enumerate(result.event_ids) if event_id is not None]
    due = [result.began_at_s + place / rate_per_s for _, place in sent]
    async with database.session() as session:
        row = await session.fetchrow(_LATENCIES, [event_id for event_id, _ in sent], due)
    return {
        "events": row["count"],
        "seconds": result.seconds,
        P50_MS.name: row["from_due"][0],
        P99_MS.name: row["from_due"][1],
        "p99_received_ms": row["from_receipt"],
        "p99_post_ms": result.latencies.p99_ms,
        LOST.name: result.sent - row["count"],
    }


if __name__ == "__main__":
    contend(work, ["rate"])
