"""Kills the process at every named point of a registration's way, starts it again, and counts what Colectiva got."""

from __future__ import annotations

from pathlib import Path
from random import Random

import asyncpg
import pytest

from e2e.connected_colectiva import connect_colectiva
from e2e.crash_points import CRASH_POINTS, CrashPoint
from e2e.crashing import crashing
from e2e.eventsync_process import environment
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.sandbox import SandboxOptions, serve
from servers.eventually import eventually
from stages.plenura_at_work import PlenuraAtWork, registered

# What a kill there costs: POSTs that repeat what was answered well, and attempts that count without an end.
COSTS = {
    "item_claimed_before_the_commit": (0, 0),
    "item_claimed_before_the_post": (0, 1),
    "item_answered_before_its_end": (1, 1),
    "item_ended": (0, 0),
}
_ATTEMPTS_BEYOND_THE_FIRST = "SELECT sum(attempts - 1) FROM ecosystem_sync_queue WHERE superseded_by IS NULL"


@pytest.mark.parametrize("point", [point for point in CRASH_POINTS if point.is_outbound], ids=lambda point: point.name)
async def test_every_registration_arrives_and_none_is_sent_without_need_when_the_process_is_killed(
    point: CrashPoint,
    pool: Database,
    keyring: Keyring,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
) -> None:
    plenura = PlenuraAtWork(database, Random(3))
    env = environment(tmp_path, database_url)
    async with serve(SandboxOptions(vendor="colectiva")) as sandbox, crashing(tmp_path, env) as process:
        colectiva = await connect_colectiva(pool, keyring, sandbox)
        await process.start(point)
        await plenura.begin(5)
        await plenura.queue_items(15)
        await process.died()
        await process.start()

        async def all_ended_well() -> bool:
            return not await plenura.items_without_success()

        await eventually(all_ended_well, 30)
        assert registered(colectiva) == await plenura.states()
        attempts = await database.fetchval(_ATTEMPTS_BEYOND_THE_FIRST)
        assert (len(colectiva.posts.needless()), attempts) == COSTS[point.name]
        assert all(count.committed == 1 for count in colectiva.posts.by_key().values())
        assert await process.stop() == 0
