"""Items of the outbound queue as tests put them in, take them and end them, at a time that a test moves.

The statements that seed 000 tells operators to run stand here as they are written there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import ItemId
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim, OutboundQueue

LEASE = timedelta(seconds=60)
BACKOFF_S = 30.0

RESET_STUCK = """
UPDATE ecosystem_sync_queue
SET status = 'pending'
WHERE status = 'processing'
  AND last_attempt_at < NOW() - INTERVAL '10 minutes';
"""
RETRY_ONE = """
UPDATE ecosystem_sync_queue
SET status = 'pending', attempts = 0, error_message = NULL
WHERE id = 'queue-item-uuid';
"""
LIST_PENDING = """
SELECT
  entity_type,
  ecosystem_org_id,
  action,
  status,
  attempts,
  error_message,
  created_at
FROM ecosystem_sync_queue
WHERE status = 'pending'
ORDER BY created_at ASC;
"""
LIST_FAILED = """
SELECT * FROM ecosystem_sync_queue
WHERE status = 'failed'
ORDER BY last_attempt_at DESC;
"""


def _in_a_second() -> datetime:
    # PostgreSQL's clock tells when rows were made: after all that the fixtures made.
    return datetime.now(UTC) + timedelta(seconds=1)


def organization(number: int) -> str:
    return f"plenura_{number:032x}"


@dataclass(slots=True)
class OutboundItems:
    """The queue, the connection that delivers it, and a clock."""

    database: asyncpg.Connection
    pool: Database
    connection_id: ConnectionId
    now: datetime = field(default_factory=_in_a_second)

    @property
    def queue(self) -> OutboundQueue:
        return OutboundQueue(self.pool)

    def advance(self, **kwargs: float) -> None:
        self.now += timedelta(**kwargs)

    async def put(self, action: str = "register", number: int = 1, **columns: Any) -> ItemId:
        """Insert an item of organization `number`."""
        payload = orjson.dumps({"organization_name": f"Test Practice {number}"}).decode()
        row = {
            "entity_type": "practice",
            "entity_id": uuid4(),
            "ecosystem_org_id": organization(number),
            "action": action,
            "payload": payload,
            **columns,
        }
        names, places = ", ".join(row), ", ".join(f"${place}" for place in range(1, len(row) + 1))
        sql = f"INSERT INTO ecosystem_sync_queue ({names}) VALUES ({places}) RETURNING id"  # noqa: S608  # ours
        return ItemId(await self.database.fetchval(sql, *row.values()))

    async def claim(self) -> Claim | None:
        return await self.queue.claim(self.connection_id, self.now, self.now + LEASE)

    async def take(self, expected: ItemId | None = None) -> Claim:
        """Claim an item, which must be there, and be the expected one."""
        claim = await self.claim()
        assert claim is not None
        assert expected in (None, claim.item.id)
        return claim

    async def accept(self, claim: Claim) -> bool:
        return await self.queue.succeed(claim, "remote-1", 200, self.now) is not None

    async def refuse(self, claim: Claim) -> bool:
        return await self.queue.fail(claim, "no such thing", 400, self.now)

    async def try_later(self, claim: Claim, seconds: float = BACKOFF_S) -> bool:
        """End an attempt that failed, with others to come."""
        until = self.now + timedelta(seconds=seconds)
        return await self.queue.put_off(claim, "HTTP 503", 503, self.now, until=until, is_counted=True)

    async def row(self, item_id: UUID) -> dict[str, Any]:
        row = await self.database.fetchrow("SELECT * FROM ecosystem_sync_queue WHERE id = $1", item_id)
        assert row is not None
        return dict(row)

    async def status(self, item_id: UUID) -> str:
        status: str = (await self.row(item_id))["status"]
        return status

    async def attempts(self, item_id: UUID) -> list[dict[str, Any]]:
        """Read what became of each attempt, in their order."""
        rows = await self.database.fetch(
            "SELECT attempt, is_counted, started_at, ended_at, http_status, error FROM ecosystem_sync_attempts"
            " WHERE item_id = $1 ORDER BY id",
            item_id,
        )
        return [dict(row) for row in rows]

    async def retry(self, item_id: UUID) -> None:
        """Do what seed 000 tells operators to do for one item."""
        await self.database.execute(RETRY_ONE.replace("queue-item-uuid", str(item_id)))
