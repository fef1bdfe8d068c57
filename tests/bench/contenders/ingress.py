"""A door under load: starts one as a process of its own, and is itself the load generator before it.

`--door eventsync` is `eventsync run ingress`; any other is a module of `bench.doors`.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.child import python, running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import CPU_SECONDS, DOUBLED, LOST, MEMORY_MB, P50_MS, P99_MS, Figures
from bench.practice import add_practice
from e2e.eventsync_process import environment
from eventsync.bench.load import LoadResult, closed_loop
from eventsync.bench.specimens import appointment_webhooks
from eventsync.bench.usage import UsageWatch
from eventsync.postgres.database import Database
from servers.ports import free_ports

_CONNECTIONS = 64


async def work(assignment: Assignment) -> Figures:
    """Load the door and count what it has stored."""
    database = Database(assignment.database_url, max_connections=1)
    await database.open()
    practice = await add_practice(database)
    (port,) = free_ports(1)
    base_url = f"http://127.0.0.1:{port}"
    door = assignment.options.door
    ours = python("ingress", "eventsync", "run", "ingress", "--port", str(port))
    command = ours if door == "eventsync" else python(door, f"bench.doors.{door}", "--port", str(port))
    settings = environment(Path.cwd() / "door", assignment.database_url)
    version_ms = int(time.time() * 1000)
    bodies = appointment_webhooks(assignment.events, first_number=WARM_UP_EVENTS, version_ms=version_ms)
    async with running(command, settings, ready_url=f"{base_url}/readyz") as process:
        url = base_url + practice.webhook_path
        warm_up = appointment_webhooks(WARM_UP_EVENTS, version_ms=version_ms)
        await closed_loop(url, warm_up, connections=_CONNECTIONS)
        watch = UsageWatch({door: process.pid}, {})
        result = await closed_loop(url, bodies, connections=_CONNECTIONS)
        (spent,) = watch.spent()
    figures: dict[str, float] = {
        "events": result.accepted,
        "seconds": result.seconds,
        P50_MS.name: result.latencies.p50_ms,
        P99_MS.name: result.latencies.p99_ms,
        CPU_SECONDS.name: spent.cpu_seconds,
        MEMORY_MB.name: spent.memory_end_mb,
    }
    if door != "bare":
        figures |= await _verified(database, result)
    await database.close()
    return figures


async def _verified(database: Database, result: LoadResult) -> dict[str, float]:
    """Look for every webhook that was sent: by its id where it was accepted; no other may be there but the warm-up."""
    ids = [event_id for event_id in result.event_ids if event_id is not None]
    async with database.session() as session:
        stored = await session.fetchval("SELECT count(*) FROM event_queue WHERE event_id = ANY($1::uuid[])", ids)
        everything = await session.fetchval("SELECT count(*) FROM event_queue")
    return {LOST.name: result.sent - stored, DOUBLED.name: everything - stored - WARM_UP_EVENTS}


if __name__ == "__main__":
    contend(work, ["door"])
