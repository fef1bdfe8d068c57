"""A whole installation reads a practice by itself: on its daily schedule and by its sweeps, without a webhook."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import orjson

from e2e.fixtures import Connect, Start
from eventsync.sandbox import QuotaLimits, SandboxOptions, serve
from servers.eventually import eventually

_DEADLINE_S = 40.0
_PRACTICE = SandboxOptions(
    clients=30, appointments=60, quota=QuotaLimits(per_minute=None, per_day=None), seed=11, state_path=None
)
_ENDED = "SELECT sync_type, status, triggered_by FROM sync_logs WHERE completed_at IS NOT NULL ORDER BY sync_type"


async def test_a_practice_that_sends_no_webhook_is_read_when_its_schedule_says_so(
    start_eventsync: Start, connect: Connect, database: asyncpg.Connection
) -> None:
    async with serve(_PRACTICE) as running:
        connected = await connect(running)
        due_at = datetime.now(UTC) - timedelta(minutes=1)
        await database.execute(
            "UPDATE connections SET created_at = $2, settings = settings || $3::jsonb WHERE id = $1",
            *(connected.connection_id, due_at - timedelta(hours=1)),
            orjson.dumps({"daily_schedule": f"{due_at.minute} {due_at.hour} * * *"}).decode(),
        )
        await database.execute(
            "INSERT INTO sync_schedules (connection_id, next_sweep_at) VALUES ($1, $2)", connected.connection_id, due_at
        )
        await start_eventsync()

        async def both_ended() -> bool:
            ended = [tuple(row) for row in await database.fetch(_ENDED)]
            assert ended == [
                ("automated_daily", "completed", "schedule"),
                ("automated_sweep", "completed", "schedule"),
            ]
            return True

        await eventually(both_ended, _DEADLINE_S)
        assert await database.fetchval("SELECT count(*) FROM patients") >= _PRACTICE.clients
        next_sweep_at = await database.fetchval("SELECT next_sweep_at FROM sync_schedules")
        assert next_sweep_at > datetime.now(UTC)
