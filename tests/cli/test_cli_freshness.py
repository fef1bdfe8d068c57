"""The age of truth by command, of everything or of one organization."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from cli.runs import Cli
from eventsync.cli.freshness import age_text
from eventsync.domain.connections import ConnectionId
from postgres.covered_copy import CoveredCopy


@pytest.fixture
async def copy(database: asyncpg.Connection, connection: dict[str, Any]) -> CoveredCopy:
    """A copy with an appointment of three hours ago and a client of yesterday."""
    now, mine = datetime.now(UTC), ConnectionId(UUID(connection["id"]))
    copy = CoveredCopy(database)
    await copy.appointment(mine, "a1", now + timedelta(days=1))
    await copy.client(mine, "12", modified=now - timedelta(hours=25))
    await copy.read(mine, "appointment", now - timedelta(hours=3, minutes=10))
    return copy


async def test_the_age_of_truth_is_shown_by_kind(cli: Cli, copy: CoveredCopy) -> None:
    ended = await cli("freshness")
    assert ended.exit_code == 0, ended.stderr
    title, *lines = [line.split() for line in ended.stdout.splitlines()]
    assert title == ["organization", "connection", "kind", "records", "p50", "p95", "p99", "oldest"]
    assert [line[:4] for line in lines] == [
        ["1", "all", "appointment", "1"],
        ["1", "all", "appointment_upcoming", "1"],
        ["1", "all", "patient", "1"],
    ]
    assert [" ".join(line[4:8]) for line in lines] == ["3 h 10 min", "3 h 10 min", "1 d 1 h"]


async def test_the_age_of_truth_is_given_in_seconds_as_json(cli: Cli, copy: CoveredCopy) -> None:
    rows = (await cli("freshness", "--org", "practice-7", "--json")).json
    assert [(row["kind"], row["records"], row["connection"]) for row in rows] == [
        ("appointment", 1, None),
        ("appointment_upcoming", 1, None),
        ("patient", 1, None),
    ]
    for row, hours in zip(rows, (3, 3, 25), strict=True):
        assert {row[name] // 3_600 for name in ("p50_s", "p95_s", "p99_s", "oldest_s")} == {hours}


async def test_an_organization_without_records_is_told_what_to_do(cli: Cli, copy: CoveredCopy) -> None:
    await cli("orgs", "add", "Other Practice", "--external-id", "practice-8")
    ended = await cli("freshness", "--org", "practice-8")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert "no record yet" in ended.stderr
    assert (await cli("freshness", "--org", "practice-8", "--json")).json == []


async def test_an_unknown_organization_is_refused(cli: Cli, copy: CoveredCopy) -> None:
    ended = await cli("freshness", "--org", "practice-9")
    assert ended.exit_code == 1
    assert "eventsync orgs list" in ended.stderr


@pytest.mark.parametrize(
    ("age_s", "text"),
    [
        (0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_599, "59 min 59 s"), (3_600, "1 h 0 min"),
        (86_399, "23 h 59 min"), (86_400, "1 d 0 h"), (40 * 86_400 + 7_199, "40 d 1 h"),
    ],
)  # fmt: skip
def test_an_age_is_written_in_its_two_largest_units(age_s: int, text: str) -> None:
    assert age_text(age_s) == text
