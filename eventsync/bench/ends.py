"""Waits until every webhook has come to its end, and tells when that was, by PostgreSQL's own commit timestamps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from eventsync.bench.latencies import Latencies
from eventsync.postgres.database import Database

_WAITING = "SELECT count(*) FROM event_queue WHERE status <> 'parked'"
_ENDED = "SELECT (SELECT count(*) FROM event_history) + (SELECT count(*) FROM event_queue WHERE status = 'parked')"
# An event's end is written in the transaction that writes its rows. Receipt is told by the clock of the door, commit by
# that of PostgreSQL: here they are one machine's.
_FIGURES = """
SELECT percentile_disc(ARRAY[0.5, 0.95, 0.99]::float8[]) WITHIN GROUP (
           ORDER BY extract(epoch FROM e.committed_at - e.received_at)::float8 * 1000),
       extract(epoch FROM max(e.committed_at))::float8
FROM (SELECT h.received_at, pg_xact_commit_timestamp(h.xmin) AS committed_at
      FROM event_history h JOIN unnest($1::uuid[]) AS sent(id) ON h.event_id = sent.id) e
"""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class RowFigures:
    """From the receipt of webhooks to their committed rows, and when the last of these was committed (Unix time)."""

    latencies: Latencies
    last_commit_at_s: float


async def wait_for_ends(
    database: Database, expected: int, *, stalled_after_s: float, on_progress: Callable[[int], None]
) -> None:
    """Return once `expected` events have ended, or nothing has moved for `stalled_after_s`. Raises Transient."""
    seen, moved_at = (-1, -1), time.monotonic()
    async with database.session() as session:
        while time.monotonic() - moved_at < stalled_after_s:
            waiting = await session.fetchval(_WAITING)
            ended = seen[1] if waiting else await session.fetchval(_ENDED)
            on_progress(max(0, expected - waiting))
            if not waiting and ended >= expected:
                return
            if (waiting, ended) != seen:
                seen, moved_at = (waiting, ended), time.monotonic()
            await asyncio.sleep(_POLL_S)


async def row_figures(database: Database, event_ids: Sequence[UUID]) -> RowFigures | None:
    """Tell how soon these events were rows; None where none of them has an end."""
    async with database.session() as session:
        percentiles, last_commit_at_s = await session.fetchrow(_FIGURES, event_ids)
    return None if percentiles is None else RowFigures(Latencies(*percentiles), last_commit_at_s)
