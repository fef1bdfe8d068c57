"""PgQueuer: jobs in PostgreSQL, enqueued in bulk.

Settings: its asyncpg pool driver; a thousand jobs an `enqueue` (lists: one INSERT); `batch_size` jobs a dequeue, and
twice that many at once, the least that it allows beside a batch (without the bound it would start every job there is);
batches of 20 were slower on trial, batches of 100 no faster.
Its tables are durable, as installed by default.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer  # type: ignore[import-not-found]  # in the peers' environment only
from pgqueuer.models import Job  # type: ignore[import-not-found]  # in the peers' environment only
from pgqueuer.queries import Queries  # type: ignore[import-not-found]  # in the peers' environment only

from bench.peers.job import Apply
from bench.peers.peer import Peer, Publish, Servers

_ENTRYPOINT = "apply"
_BULK_JOBS = 1000
_BATCH_JOBS = 50
_POOL = 8


async def prepare(servers: Servers) -> None:
    """Make its tables."""
    async with asyncpg.create_pool(servers.database_url, min_size=0, max_size=2) as pool:
        await Queries.from_asyncpg_pool(pool).install()


@asynccontextmanager
async def publisher(servers: Servers) -> AsyncIterator[Publish]:
    """Enqueue in bulk."""
    async with asyncpg.create_pool(servers.database_url, min_size=1, max_size=1) as pool:
        queries = Queries.from_asyncpg_pool(pool)

        async def publish(bodies: Sequence[bytes]) -> None:
            for start in range(0, len(bodies), _BULK_JOBS):
                bulk = list(bodies[start : start + _BULK_JOBS])
                await queries.enqueue([_ENTRYPOINT] * len(bulk), bulk, [0] * len(bulk))

        yield publish


async def work(servers: Servers, apply: Apply) -> None:
    """Run its queue manager."""
    async with asyncpg.create_pool(servers.database_url, min_size=2, max_size=_POOL) as pool:
        manager = PgQueuer.from_asyncpg_pool(pool)

        async def run_job(job: Job) -> None:
            await apply(job.payload)

        manager.entrypoint(_ENTRYPOINT)(run_job)
        await manager.qm.run(batch_size=_BATCH_JOBS, max_concurrent_tasks=2 * _BATCH_JOBS)


PEER = Peer(publisher=publisher, work=work, prepare=prepare)
