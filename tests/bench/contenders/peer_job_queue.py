"""A peer's whole path: this process publishes, one worker process of the peer applies, both at once.

`--peer` is a module of `bench.peers`. The clock runs from the first publish until the last row is visible.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.child import python, running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import LOST, Figures
from bench.peers.peer import Servers, load_peer
from bench.peers.rows import missing_rows, until_rows
from bench.peers.trial import usage_figures, watch
from bench.practice import add_practice
from e2e.eventsync_process import environment
from eventsync.bench.specimens import appointment_id, appointment_webhooks
from eventsync.postgres.database import Database


async def work(assignment: Assignment) -> Figures:
    """Publish and wait for the rows."""
    servers = Servers(assignment.database_url, assignment.amqp_url)
    peer = load_peer(assignment.options.peer)
    database = Database(assignment.database_url, max_connections=1)
    await database.open()
    practice = await add_practice(database)
    if peer.prepare is not None:
        await peer.prepare(servers)
    version_ms = int(time.time() * 1000)
    bodies = appointment_webhooks(assignment.events, version_ms=version_ms)
    warm_up = appointment_webhooks(WARM_UP_EVENTS, first_number=assignment.events, version_ms=version_ms)
    command = python("worker", "bench.peers.worker", assignment.options.peer, str(practice.connection_id))
    settings = environment(Path.cwd() / "worker", assignment.database_url, assignment.amqp_url)
    async with peer.publisher(servers) as publish, running(command, settings) as worker:
        await publish(warm_up)
        await until_rows(database, WARM_UP_EVENTS)
        usage = watch({"worker": worker}, os.getpid())
        began = time.perf_counter()
        await publish(bodies)
        published = time.perf_counter()
        await until_rows(database, WARM_UP_EVENTS + assignment.events)
        seconds = time.perf_counter() - began
        figures = {"events": assignment.events, "seconds": seconds, "publish_seconds": published - began}
        figures |= usage_figures(usage)
    figures[LOST.name] = await missing_rows(database, [appointment_id(number) for number in range(assignment.events)])
    await database.close()
    return figures


if __name__ == "__main__":
    contend(work, ["peer"])
