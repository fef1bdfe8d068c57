"""Waits for the rows that a trial must end in, and counts those that never came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from eventsync.postgres.database import Database

_SHORTEST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5
_GIVES_UP_AFTER_S = 20.0  # without a single new row


async def until_rows(database: Database, wanted: int, *, table: str = "appointments") -> None:
    """Return as soon as `wanted` rows are visible, or when none came for 20 s: what is missing counts as lost then.

    The counting shares the machine with what is measured, so it asks again after half the time that the rest should
    take at the rate so far.
    """
    began = moved = time.monotonic()
    first = seen = await count_rows(database, table)
    while seen < wanted:
        now = time.monotonic()
        rate_per_s = (seen - first) / (now - began) if seen > first else 0.0
        pause_s = (wanted - seen) / rate_per_s / 2 if rate_per_s else 0.05
        await asyncio.sleep(min(max(pause_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
        last, seen = seen, await count_rows(database, table)
        now = time.monotonic()
        if seen > last:
            moved = now
        elif now - moved > _GIVES_UP_AFTER_S:
            return


async def count_rows(database: Database, table: str) -> int:
    """Count a table's rows; `table` is one of those named here."""
    statements = {
        "appointments": "SELECT count(*) FROM appointments",
        "event_queue": "SELECT count(*) FROM event_queue",
        "customers": "SELECT count(*) FROM stripe.customers",
    }
    async with database.session() as session:
        return int(await session.fetchval(statements[table]))


async def missing_rows(database: Database, ids: Sequence[str], *, table: str = "appointments") -> int:
    """Count those of `ids`, the vendor's, that have no row."""
    statements = {
        "appointments": "SELECT count(*) FROM unnest($1::text[]) AS k(id)"
        " WHERE NOT EXISTS (SELECT FROM appointments a WHERE a.external_id = k.id)",
        "customers": "SELECT count(*) FROM unnest($1::text[]) AS k(id)"
        " WHERE NOT EXISTS (SELECT FROM stripe.customers c WHERE c.id = k.id)",
    }
    async with database.session() as session:
        return int(await session.fetchval(statements[table], list(ids)))
