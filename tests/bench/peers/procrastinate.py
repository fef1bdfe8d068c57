"""Procrastinate: jobs in PostgreSQL, deferred in batches.

Settings: psycopg with its C implementation; a thousand jobs a `batch_defer`; twenty jobs at once with a pool to match;
LISTEN/NOTIFY on; jobs that succeeded are deleted, which its documentation advises against growing tables.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]  # in the peers' environment only

from bench.peers.job import Apply
from bench.peers.peer import Peer, Publish, Servers

_BATCH_JOBS = 1000
_JOBS_AT_ONCE = 20


async def prepare(servers: Servers) -> None:
    """Make its tables."""
    async with _app(servers, connections=1).open_async() as app:
        await app.schema_manager.apply_schema_async()


@asynccontextmanager
async def publisher(servers: Servers) -> AsyncIterator[Publish]:
    """Defer in batches."""
    async with _app(servers, connections=1).open_async() as app:
        task = app.configure_task("apply", allow_unknown=True)

        async def publish(bodies: Sequence[bytes]) -> None:
            for start in range(0, len(bodies), _BATCH_JOBS):
                await task.batch_defer_async(*({"body": body.decode()} for body in bodies[start : start + _BATCH_JOBS]))

        yield publish


async def work(servers: Servers, apply: Apply) -> None:
    """Run its worker."""

    async def run_job(body: str) -> None:
        await apply(body.encode())

    app = _app(servers, connections=_JOBS_AT_ONCE + 2)
    app.task(name="apply")(run_job)
    async with app.open_async():
        await app.run_worker_async(
            concurrency=_JOBS_AT_ONCE, delete_jobs="successful", install_signal_handlers=False, listen_notify=True
        )


def _app(servers: Servers, connections: int) -> App:
    return App(connector=PsycopgConnector(conninfo=servers.database_url, min_size=1, max_size=connections))


PEER = Peer(publisher=publisher, work=work, prepare=prepare)
