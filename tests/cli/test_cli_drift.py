"""`eventsync drift`: what sweeps found wrong as a table for people and as JSON for programs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from cli.runs import Cli
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import RunId
from eventsync.postgres.database import Database
from eventsync.postgres.queue_values import Parked
from postgres.drifting import HOUR, MINUTE, NOW, SWEEP, Change, Drifting

BOOKED = Change("a1", SWEEP - 5 * HOUR, "AppointmentCreated")


@pytest.fixture
def practice(pool: Database, keyring: Keyring, connection: dict[str, Any]) -> Drifting:
    return Drifting(pool, keyring, ConnectionId(UUID(connection["id"])))


async def test_a_table_tells_each_finding_and_a_line_sums_up(cli: Cli, practice: Drifting) -> None:
    await practice.sweep(BOOKED, replace(BOOKED, name="a2"))
    await practice.sweep(replace(BOOKED, at=SWEEP - HOUR, price=7), began=SWEEP + 5 * MINUTE)
    event_id = await practice.webhook(replace(BOOKED, name="a2"), after=NOW - BOOKED.at)
    ended = await cli("drift")
    assert ended.exit_code == 0
    title, edited, late, lost, _, summary = ended.stdout.splitlines()
    assert title.split() == ["connection", "kind", "id", "fields", "since", "webhook", "became", "event", "id"]
    assert edited.split()[:4] == ["1", "appointment", "a1", "price"]
    assert edited.split()[-3:] == ["-", "unannounced", "-"]
    assert late.split()[2:4] == ["a2", "new"]
    assert late.split()[-3:] == ["AppointmentCreated", "late", str(event_id)]
    assert lost.split()[-3:] == ["AppointmentCreated", "never_came", "-"]
    assert summary == "findings: 3 (1 unannounced, 1 late, 1 never_came)"
    assert (await cli("drift", "--limit", "1")).stdout.endswith("never_came) (1 shown, the latest)\n")


async def test_json_gives_findings_and_their_sums(cli: Cli, practice: Drifting) -> None:
    await practice.sweep(BOOKED)
    given = (await cli("drift", "--json")).json
    (found,) = given["findings"]
    assert (found["external_id"], found["verdict"], found["connection"]) == ("a1", "never_came", 1)
    assert given["summary"] == {
        "counts": [{"expected_event": "AppointmentCreated", "verdict": "never_came", "count": 1}],
        "parked_unread": 0,
    }


async def test_nothing_found_is_said_and_is_no_failure(cli: Cli, practice: Drifting) -> None:
    ended = await cli("drift")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert "no sweep found a record wrong" in ended.stderr
    assert (await cli("drift", "--json")).json == {"findings": [], "summary": {"counts": [], "parked_unread": 0}}


async def test_parked_events_that_nobody_could_read_are_mentioned(cli: Cli, practice: Drifting) -> None:
    await practice.queue.park([Parked(await practice.receive(NOW - HOUR), "not_json")])
    await practice.sweep(BOOKED)
    assert "parked events of that time that name no record: 1;" in (await cli("drift")).stdout


async def test_findings_are_filtered_and_those_of_a_week_shown_unless_a_run_is_named(
    cli: Cli, practice: Drifting, database: asyncpg.Connection
) -> None:
    run_id = RunId(uuid4())
    await database.execute(
        "INSERT INTO sync_logs (id, sync_type, connection_id, triggered_by, started_at, created_at, updated_at)"
        " VALUES ($1, 'automated_sweep', $2, 'schedule', $3, $3, $3)", run_id, practice.connection_id, NOW,
    )  # fmt: skip
    old = NOW - timedelta(days=8)
    await practice.sweep(replace(BOOKED, name="old", at=old - HOUR), began=old, run_id=run_id)
    await practice.sweep(BOOKED)
    await practice.sweep(replace(BOOKED, at=SWEEP - HOUR, price=7), began=SWEEP + 5 * MINUTE)
    cases: list[tuple[list[str], list[str]]] = [
        ([], ["a1", "a1"]),
        (["--since", "30d"], ["a1", "a1", "old"]),
        (["--run", str(run_id)], ["old"]),
        (["--run", str(run_id), "--since", "7d"], []),
        (["--class", "never_came"], ["a1"]),
        (["--class", "parked"], []),
        (["--org", "practice-7", "--connection", "1"], ["a1", "a1"]),
    ]
    for words, expected in cases:
        given = (await cli("drift", "--json", *words)).json
        assert [found["external_id"] for found in given["findings"]] == expected, words
        assert sum(row["count"] for row in given["summary"]["counts"]) == len(expected), words


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["--class", "lost"], 2),
        (["--run", "12"], 2),
        (["--since", "soon"], 2),
        (["--org", "nobody"], 1),
        (["--connection", "99"], 1),
    ],
)
async def test_what_cannot_be_asked_ends_with_its_code(
    cli: Cli, practice: Drifting, words: list[str], exit_code: int
) -> None:
    ended = await cli("drift", *words)
    assert (ended.exit_code, ended.stdout) == (exit_code, "")
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


async def test_a_record_is_explained_with_what_sweeps_corrected(cli: Cli, practice: Drifting) -> None:
    await practice.sweep(BOOKED)
    await practice.sweep(replace(BOOKED, at=SWEEP - HOUR, price=7), began=SWEEP + 5 * MINUTE)
    told = (await cli("explain", "appointment", "a1")).stdout
    *_, title, brought, edited = told.splitlines()
    assert title.split() == ["found", "what", "it", "did", "webhook", "became"]
    assert brought.split()[2:] == ["brought", "it", "AppointmentCreated", "never", "came"]
    assert "changed price" in edited
    corrections = (await cli("explain", "appointment", "a1", "--json")).json["corrections"]
    assert [entry["verdict"] for entry in corrections] == ["never_came", "unannounced"]
