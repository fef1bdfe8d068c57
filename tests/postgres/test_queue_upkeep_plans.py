"""How the statements that keep the queue in order find their rows: what is lost, leased or of a clock that was ahead.

They run every few seconds beside the hot ones, in a queue of a hundred thousand events after a long stop, of which only
a bounded window is in flight. The planner has statistics of it, or of the time when it was nearly empty and all of it
was in flight: then it may look through the queue, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventsync.postgres.queue import SQL
from postgres.test_queue_plans import (
    LANES,
    PUBLISHED,
    assert_looks_at_few,
    connected,
    event_id,
    every_situation,
    plan_of,
    rows_looked_at,
)
from servers.postgres import DatabaseServer

NOW = datetime.now(UTC).replace(microsecond=0)
EVENTS, RUNNING, FROM_AHEAD = 100_000, 50, 40
PARKED = event_id(PUBLISHED + RUNNING + 2)

# $1 and $2: the first number and the one after the last. The first events are in flight, of which each hundredth is
# lost, then some are read by workers, of which each second has died; of the others each fourth is parked. A few come
# from a clock that is ahead.
_FILL = f"""
INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, available_at, status, published_at, work,
                         entity_kind, entity_id, reason, lane, publishes, attempt_started_at, leased_until)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, t.at, gen_random_uuid(), 'intakeq', 'webhook',
       t.at, s.status, CASE WHEN n % 100 = 5 THEN t.at - interval '1 day' ELSE t.at END,
       CASE WHEN n % 10 = 9 OR s.status = 'running' THEN 'refetch' ELSE 'apply' END, 'note', n::text,
       CASE WHEN s.status = 'parked' THEN 'not_understood' END, CASE WHEN n % 20 = 1 THEN 1 ELSE 0 END, 1,
       CASE WHEN s.status = 'running' THEN t.at END,
       CASE WHEN s.status = 'running' THEN t.at + (n % 2) * interval '5 minutes' - interval '2 minutes' END
FROM generate_series($1::int, $2::int - 1) n,
     LATERAL (SELECT CASE WHEN n % ({EVENTS} / {FROM_AHEAD}) = 3 THEN $now + interval '1 hour'
                          ELSE $now - n * interval '1 second' END) t(at),
     LATERAL (SELECT CASE WHEN n < {PUBLISHED} THEN 'published' WHEN n < {PUBLISHED + RUNNING} THEN 'running'
                          WHEN n % 4 = 0 THEN 'parked' ELSE 'pending' END) s(status)
""".replace("$now", f"timestamptz '{NOW.isoformat()}'")  # noqa: S608  # constants of this file

_NOTHING = "WITH nothing AS (SELECT $1::int) "  # gives a statement that has none an argument
WINDOW: dict[str, tuple[str, Sequence[Any]]] = {
    "republish_lost": (SQL.republish_lost, [NOW, 30.0]),
    "republish_all": (_NOTHING + SQL.republish_all, [0]),
    "follow_clock_set_back": (SQL.follow_clock_set_back, [NOW, *LANES[:2]]),
}
"""What looks through the window in flight, and changes little of it or all."""
FEW: dict[str, tuple[str, Sequence[Any]]] = {
    "return_expired_leases": (SQL.return_expired_leases, [NOW - timedelta(hours=1, minutes=40)]),
    "unpark": (SQL.unpark, [PARKED, NOW, 1]),
}


@pytest.fixture(scope="module")
def busy_urls(postgres_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Two databases with a long queue, by what the planner knows of it."""
    with asyncio.Runner() as runner:
        places = AsyncExitStack()
        urls = {
            name: runner.run(places.enter_async_context(postgres_server.database(migrated=True)))
            for name in ("stale", "fresh")
        }
        for name, url in urls.items():
            runner.run(_fill(url, is_analyzed=name == "fresh"))
        yield urls
        runner.run(places.aclose())


async def _fill(url: str, *, is_analyzed: bool) -> None:
    async with connected(url) as connection:
        await connection.execute("ALTER TABLE event_queue SET (autovacuum_enabled = off)")
        for begin, end in ((0, 1000), (1000, EVENTS)):
            await connection.execute(_FILL, begin, end)
            if begin == 0 or is_analyzed:
                await connection.execute("ANALYZE event_queue")


@every_situation
@pytest.mark.parametrize("name", WINDOW)
async def test_what_is_in_flight_is_found_without_the_rest_of_the_queue(
    busy_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = WINDOW[name]
    plan = await plan_of(busy_urls[statistics], sql, arguments, is_generic=is_generic)
    if statistics == "fresh":
        assert_looks_at_few(plan)
    assert max(map(rows_looked_at, plan)) <= EVENTS


@every_situation
@pytest.mark.parametrize("name", FEW)
async def test_single_events_are_found_by_their_index(
    busy_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = FEW[name]
    plan = await plan_of(busy_urls[statistics], sql, arguments, is_generic=is_generic)
    for part in plan:
        assert part["Node Type"] != "Seq Scan", part
        assert rows_looked_at(part) <= 2 * RUNNING, part


@every_situation
async def test_the_queue_is_measured_by_one_look_and_what_is_parked_by_its_index(
    busy_urls: dict[str, str], statistics: str, is_generic: bool
) -> None:
    plan = await plan_of(busy_urls[statistics], _NOTHING + SQL.measure, [0], is_generic=is_generic)
    scans = [part for part in plan if part.get("Relation Name") == "event_queue"]
    assert len(scans) == 2
    assert max(map(rows_looked_at, scans)) <= EVENTS
    assert "event_queue_parked" in {part.get("Index Name") for part in plan}
