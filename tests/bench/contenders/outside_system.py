"""A whole system seen from outside: signed POSTs over 64 connections, until the last row is visible.

`--system` is one of `bench.peers.systems`; its processes run beside this one, which is the load generator. `p50_ms` and
`p99_ms` are from the POST to its answer; `answer_seconds` is when the last answer was there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from bench.child import running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import LOST, P50_MS, P99_MS, Figures
from bench.peers.rows import missing_rows, until_rows
from bench.peers.systems import SYSTEMS, Ground, System, add_signing_practice
from bench.peers.trial import usage_figures, watch
from eventsync.bench.load import LoadResult, closed_loop
from eventsync.postgres.database import Database

_CONNECTIONS = 64


async def work(assignment: Assignment) -> Figures:
    """Load the system and wait for the rows."""
    database = Database(assignment.database_url, max_connections=1)
    await database.open()
    practice = await add_signing_practice(database)
    system = SYSTEMS[assignment.options.system](Ground(assignment.database_url, assignment.amqp_url, practice))
    numbers = range(assignment.events)
    bodies = [system.mail.body(number) for number in numbers]
    async with _running(system) as processes:
        warm_up = range(assignment.events, assignment.events + WARM_UP_EVENTS)
        await _post(system, [system.mail.body(number) for number in warm_up])
        await until_rows(database, WARM_UP_EVENTS, table=system.mail.table)
        usage = watch(processes)
        began = time.perf_counter()
        result = await _post(system, bodies)
        await until_rows(database, WARM_UP_EVENTS + result.accepted, table=system.mail.table)
        seconds = time.perf_counter() - began
        figures = {"events": result.accepted, "seconds": seconds, "answer_seconds": result.seconds}
        figures |= {P50_MS.name: result.latencies.p50_ms, P99_MS.name: result.latencies.p99_ms}
        figures |= usage_figures(usage)
    row_ids = [system.mail.row_id(number) for number in numbers]
    figures[LOST.name] = await missing_rows(database, row_ids, table=system.mail.table)
    await database.close()
    return figures


async def _post(system: System, bodies: list[bytes]) -> LoadResult:
    result = await closed_loop(system.url, bodies, connections=_CONNECTIONS, header_lines=system.mail.header_lines())
    if result.accepted < len(bodies):
        raise RuntimeError(f"of {len(bodies)} webhooks {result.accepted} were accepted; refused: {result.statuses}")
    return result


@asynccontextmanager
async def _running(system: System) -> AsyncIterator[Mapping[str, asyncio.subprocess.Process]]:
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(
                running(program.command, program.settings, ready_url=program.ready_url)
            )
            for name, program in system.programs.items()
        }


if __name__ == "__main__":
    contend(work, ["system"])
