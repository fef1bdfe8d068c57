"""How old the truth of a whole copy is, and what coverage is kept to tell it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.records import patient_id_of
from eventsync.domain.runs import RunRequest, SyncType
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from eventsync.postgres.database import Database
from eventsync.postgres.freshness import Freshness, FreshnessKind, FreshnessRow, prune_coverage
from eventsync.postgres.runs import Runs
from eventsync.postgres.tenants import Connections, Organizations
from eventsync.vendors import load_vendors
from postgres.covered_copy import DAY, HOUR, NOW, CoveredCopy, put_at_random

WEEK = (NOW - 3 * DAY, NOW + 4 * DAY)


@pytest.fixture
def copy(database: asyncpg.Connection) -> CoveredCopy:
    return CoveredCopy(database)


@pytest.fixture
async def owner_id(database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> OrganizationId:
    owner = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[0])
    return OrganizationId(owner)


@pytest.mark.parametrize("seed", range(10))
async def test_the_report_gives_the_percentiles_of_all_ages(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], seed: int
) -> None:
    evidence = await put_at_random(copy, connection_ids, random.Random(seed))
    now = NOW + 6 * HOUR
    ages: dict[tuple[ConnectionId, str], list[float]] = {}
    for key, (start, _) in evidence.records.items():
        age_s = max(0.0, (now - evidence.verified_at(key)).total_seconds())
        ages.setdefault(key[:2], []).append(age_s)
        if start is not None and start >= now:
            ages.setdefault((key[0], "appointment_upcoming"), []).append(age_s)
    found = {}
    for row in await Freshness(pool).report(None, now):
        connection_id = await copy.database.fetchval(
            "SELECT id FROM connections WHERE organization_id = $1", row.organization_id
        )
        found[connection_id, row.kind.value] = (row.records, row.p50_s, row.p95_s, row.p99_s, row.oldest_s)
    assert found == {key: (len(of), *(percentile(of, at) for at in (50, 95, 99, 100))) for key, of in ages.items()}


def percentile(ages_s: list[float], percent: int) -> float:
    """Tell the smallest age that at least so many percent do not exceed."""
    return sorted(ages_s)[-(-len(ages_s) * percent // 100) - 1]


async def test_the_report_tells_several_connections_of_an_organization_apart(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], owner_id: OrganizationId
) -> None:
    await copy.database.execute("UPDATE connections SET organization_id = $1", owner_id)
    for connection_id, modified in zip(connection_ids, (NOW - HOUR, NOW - 3 * HOUR), strict=True):
        await copy.appointment(connection_id, "a1", NOW - DAY, modified=modified)
    told = [
        (row.connection_id, row.records, row.p50_s, row.oldest_s) for row in await Freshness(pool).report(None, NOW)
    ]
    assert told == [
        (None, 2, 3_600, 3 * 3_600),
        (connection_ids[0], 1, 3_600, 3_600),
        (connection_ids[1], 1, 3 * 3_600, 3 * 3_600),
    ]


async def test_an_organization_sees_the_age_of_its_own_records_only(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], owner_id: OrganizationId
) -> None:
    mine, other = connection_ids
    await copy.appointment(mine, "a1", modified=NOW - HOUR)
    await copy.appointment(other, "b1", modified=NOW - 9 * HOUR)
    partner = await Organizations(pool).add("Test Partner", None, NOW)
    await copy.database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, origin)"
        " VALUES ($1, $2, 'Test', 'Client 12', 'vendor')", patient_id_of(mine, "12"), owner_id,
    )  # fmt: skip
    terms = AffiliationTerms(start_date=NOW.date())
    await Affiliations(pool).add(owner_id, patient_id_of(mine, "12"), partner.id, terms, NOW)
    rows = await Freshness(pool).report(owner_id, NOW)
    assert {(row.organization_id, row.kind, row.oldest_s) for row in rows} == {
        (owner_id, FreshnessKind.APPOINTMENT, 3_600),
        (owner_id, FreshnessKind.APPOINTMENT_UPCOMING, 3_600),
    }
    assert await Freshness(pool).report(partner.id, NOW) == []
    assert len(await Freshness(pool).report(None, NOW)) == 4


async def test_deleted_records_and_disabled_connections_have_no_age(
    copy: CoveredCopy, pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]
) -> None:
    mine, other = connection_ids
    await copy.appointment(mine, "a1", deleted_at=NOW)
    await copy.client(mine, "12", deleted_at=NOW)
    await copy.appointment(other, "b1")
    await Connections(pool, keyring, load_vendors()).disable(other, None, NOW)
    assert await Freshness(pool).report(None, NOW) == []
    assert await copy.database.fetch("SELECT * FROM v_freshness") == []


async def test_truth_from_a_clock_that_is_ahead_is_not_younger_than_now(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    await copy.appointment(connection_ids[0], "a1", NOW - DAY, modified=NOW + HOUR)
    (row,) = await Freshness(pool).report(None, NOW)
    assert (row.p50_s, row.oldest_s) == (0, 0)


async def test_the_view_tells_what_the_report_tells(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    await put_at_random(copy, connection_ids, random.Random(1))
    await copy.database.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")  # now() stands still
    now: datetime = await copy.database.fetchval("SELECT now()")
    view = await copy.database.fetch("SELECT * FROM v_freshness")
    report = await Freshness(pool).report(None, now.astimezone(UTC))
    assert sorted(map(_plain, view)) == sorted(map(_told, report))


def _plain(row: Any) -> tuple[Any, ...]:
    ages = [row[name] // timedelta(seconds=1) for name in ("p50_age", "p95_age", "p99_age", "oldest_age")]
    return row["organization_id"], row["kind"], row["records"], *ages


def _told(row: FreshnessRow) -> tuple[Any, ...]:
    return row.organization_id, row.kind.value, row.records, row.p50_s, row.p95_s, row.p99_s, row.oldest_s


async def test_coverage_is_forgotten_once_newer_coverage_contains_it(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    mine, other = connection_ids
    low, middle, high = NOW, NOW + 5 * DAY, NOW + 9 * DAY
    reads = [(low, high), (low - HOUR, middle), (middle, high), (low, middle), (low, high + HOUR)]
    for number, window in enumerate(reads):
        await copy.read(mine, "appointment", NOW + number * HOUR, window)
    await copy.read(mine, "patient", NOW)
    await copy.read(mine, "patient", NOW)
    await copy.read(other, "appointment", NOW - DAY, (low, high))
    await prune_coverage(pool, other)
    assert len(await copy.windows(mine)) == 7
    await prune_coverage(pool, mine)
    # (low - HOUR, middle) still sticks out; of equals, one remains.
    assert await copy.windows(mine) == [NOW, NOW + HOUR, NOW + 4 * HOUR]
    await prune_coverage(pool)
    assert await copy.windows(other) == [NOW - DAY]


async def test_two_newer_windows_together_contain_an_older_one(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    mine = connection_ids[0]
    await copy.read(mine, "appointment", NOW, (NOW, NOW + 2 * DAY))
    await copy.read(mine, "appointment", NOW + HOUR, (NOW, NOW + DAY))
    await prune_coverage(pool)
    assert len(await copy.windows(mine)) == 2
    await copy.read(mine, "appointment", NOW + 2 * HOUR, (NOW + DAY, NOW + 2 * DAY))
    await prune_coverage(pool)
    assert await copy.windows(mine) == [NOW + HOUR, NOW + 2 * HOUR]


async def test_what_a_run_has_read_itself_is_kept_until_the_run_has_ended(
    copy: CoveredCopy, pool: Database, connection_ids: list[ConnectionId], owner_id: OrganizationId
) -> None:
    mine, runs = connection_ids[0], Runs(pool)
    run, _ = await runs.request(RunRequest(SyncType.BACKFILL, mine, owner_id, "test"), NOW)
    await copy.read(mine, "appointment", NOW, WEEK, run_id=run.id)
    await copy.read(mine, "appointment", NOW + HOUR, WEEK)
    await prune_coverage(pool)
    assert len(await copy.windows(mine)) == 2
    await runs.cancel(run.id, NOW + HOUR)
    await prune_coverage(pool)
    assert await copy.windows(mine) == [NOW + HOUR]
