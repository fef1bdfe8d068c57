"""`eventsync sync`: the scheduled runs in the foreground, never two of them, and dry runs that leave nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from cli.runs import Cli
from cli.sync_practice import Practice, connected_practice
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease, Runs
from eventsync.sandbox import ApiAnswer, ScriptedCall

SYNC = ("sync", "intakeq")


@pytest.fixture
async def practice(cli: Cli, organization: dict[str, Any]) -> AsyncIterator[Practice]:
    async with connected_practice(cli) as connected:
        yield connected


async def asked_elsewhere(
    pool: Database, practice: Practice, organization: dict[str, Any], sync_type: SyncType = SyncType.AUTOMATED_DAILY
) -> Run:
    """Ask for a run as the schedule does."""
    connection_id = ConnectionId(UUID(practice.connection["id"]))
    request = RunRequest(sync_type, connection_id, OrganizationId(UUID(organization["id"])), "schedule")
    run, _ = await Runs(pool).request(request, datetime.now(UTC))
    return run


async def leased_elsewhere(pool: Database, run: Run, lease: timedelta = timedelta(minutes=1)) -> RunLease:
    """Take the run as another process does."""
    now = datetime.now(UTC)
    leased = await Runs(pool).claim(uuid4(), now, now + lease, run_id=run.id)
    assert leased is not None
    return leased


async def test_a_full_sync_brings_everything_and_says_what_it_did(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    ended = await cli(*SYNC, "--json")
    assert ended.exit_code == 0, ended.stderr
    (run,) = ended.json
    assert (run["connection"], run["status"], run["sync_type"]) == (1, "completed", "automated_daily")
    assert (run["appointments_new"], run["appointments_unchanged"], run["new_patients"]) == (60, 0, 20)
    assert run["calls"] == practice.calls > 0
    assert run["triggered_by"].startswith("cli:")
    await practice.require_true_copy(database)
    row = await database.fetchrow("SELECT id, status, duration_ms FROM sync_logs")
    assert (str(row["id"]), row["status"], row["duration_ms"]) == (run["run_id"], "completed", run["duration_ms"])


async def test_the_table_shows_counts_and_calls_and_no_bar_where_no_terminal_is(cli: Cli, practice: Practice) -> None:
    ended = await cli(*SYNC)
    title, line = ended.stdout.splitlines()
    assert title.split()[:6] == ["connection", "status", "new", "updated", "unchanged", "errors"]
    assert line.split()[:6] == ["1", "completed", "60", "0", "0", "0"]
    assert "calls" not in ended.stderr


async def test_a_terminal_is_shown_how_far_it_is(cli: Cli, practice: Practice) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm"}
    for words in (("--dry-run",), ()):
        ended = await cli(*SYNC, *words, env=terminal)
        assert ended.exit_code == 0, ended.stderr
        assert "of about" in ended.stderr
        assert "calls" in ended.stderr


async def test_what_changed_is_read_for_the_organization(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    await cli(*SYNC)
    practice.sandbox.act_unheard("book")
    ended = await cli(*SYNC, "--mode", "changes", "--org", "practice-7", "--json")
    assert ended.exit_code == 0, ended.stderr
    (run,) = ended.json
    assert (run["sync_type"], run["appointments_new"], run["appointments_unchanged"]) == ("manual_org_bulk", 1, 60)
    await practice.require_true_copy(database)


async def test_the_days_to_read_are_chosen(cli: Cli, practice: Practice, database: asyncpg.Connection) -> None:
    ended = await cli(*SYNC, "--days-back", "0", "--days-ahead", "2", "--json")
    assert 0 < ended.json[0]["appointments_new"] < 20
    options = await database.fetchval("SELECT options::text FROM sync_logs")
    assert options == '{"days_back": 0, "days_ahead": 2}'


async def test_each_connection_is_synced_or_the_one_that_is_named(
    cli: Cli, practice: Practice, organization: dict[str, Any]
) -> None:
    async with connected_practice(cli, clients=3, appointments=5):
        both = await cli(*SYNC, "--json")
        second = await cli(*SYNC, "--connection", "2", "--json")
    assert [(run["connection"], run["appointments_new"]) for run in both.json] == [(1, 60), (2, 5)]
    assert [(run["connection"], run["appointments_unchanged"]) for run in second.json] == [(2, 5)]


async def test_a_sync_that_goes_on_elsewhere_is_followed_to_its_end(
    cli: Cli, practice: Practice, organization: dict[str, Any], pool: Database
) -> None:
    lease = await leased_elsewhere(pool, await asked_elsewhere(pool, practice, organization))
    following = asyncio.ensure_future(cli(*SYNC, "--json"))
    done, _ = await asyncio.wait({following}, timeout=2)
    assert not done
    end = RunEnd(RunStatus.PARTIAL_SUCCESS, RunCounts(appointments_new=7), "the day's API calls are spent")
    await Runs(pool).end(lease, end, datetime.now(UTC))
    ended = await following
    assert ended.exit_code == 0, ended.stderr
    assert [(run["run_id"], run["appointments_new"]) for run in ended.json] == [(str(lease.run.id), 7)]
    assert practice.calls == 0
    assert "asked for by schedule: following it" in ended.stderr


async def test_a_sync_that_waits_for_a_worker_is_carried_out_here(
    cli: Cli, practice: Practice, organization: dict[str, Any], pool: Database, database: asyncpg.Connection
) -> None:
    run = await asked_elsewhere(pool, practice, organization)
    ended = await cli(*SYNC, "--json")
    assert [(row["run_id"], row["status"]) for row in ended.json] == [(str(run.id), "completed")]
    await practice.require_true_copy(database)


async def test_a_sync_whose_worker_died_is_taken_over(
    cli: Cli, practice: Practice, organization: dict[str, Any], pool: Database, database: asyncpg.Connection
) -> None:
    lease = await leased_elsewhere(pool, await asked_elsewhere(pool, practice, organization), timedelta(seconds=-1))
    ended = await cli(*SYNC, "--json")
    assert [(row["run_id"], row["status"]) for row in ended.json] == [(str(lease.run.id), "completed")]
    await practice.require_true_copy(database)


async def test_it_waits_for_another_kind_of_long_run_and_begins_after_it(
    cli: Cli, practice: Practice, organization: dict[str, Any], pool: Database
) -> None:
    lease = await leased_elsewhere(pool, await asked_elsewhere(pool, practice, organization, SyncType.BACKFILL))
    waiting = asyncio.ensure_future(cli(*SYNC, "--json"))
    done, _ = await asyncio.wait({waiting}, timeout=2)
    assert not done
    assert practice.calls == 0
    await Runs(pool).end(lease, RunEnd(RunStatus.COMPLETED), datetime.now(UTC))
    ended = await waiting
    assert [row["status"] for row in ended.json] == ["completed"]
    assert "backfill, which goes on now" in ended.stderr


async def test_a_sync_that_does_a_part_of_its_work_ends_with_0_and_says_why(
    cli: Cli, organization: dict[str, Any]
) -> None:
    settings = {"calls_per_minute": "100", "calls_per_day": "5"}
    async with connected_practice(cli, settings=settings):
        ended = await cli(*SYNC)
    assert ended.exit_code == 0
    assert "partial_success" in ended.stdout
    assert "connection 1: partial_success: the day's API calls for sweep are spent" in ended.stderr


async def test_a_sync_that_fails_ends_with_1_and_says_what_to_do(cli: Cli, practice: Practice) -> None:
    practice.sandbox.set_api_key("another-key")
    ended = await cli(*SYNC)
    assert ended.exit_code == 1
    assert "connection 1: failed: Failed to fetch from PracticeQ" in ended.stderr
    assert "api_key" in ended.stderr


async def test_ctrl_c_cancels_what_it_has_asked_for_and_what_was_read_stays(
    cli: Cli, practice: Practice, settings_env: dict[str, str], database: asyncpg.Connection
) -> None:
    exit_code, said = await practice.stop_at(SYNC, settings_env, signal.SIGINT, route="*", call=4)
    assert exit_code == 1
    assert "Cancelling the run" in said
    assert "Traceback" not in said
    row = await database.fetchrow("SELECT status, appointments_new FROM sync_logs")
    assert row["status"] == "cancelled"
    assert row["appointments_new"] == await database.fetchval("SELECT count(*) FROM appointments") > 0


async def test_ctrl_c_leaves_alone_what_another_process_carries_out(
    practice: Practice,
    organization: dict[str, Any],
    pool: Database,
    settings_env: dict[str, str],
    database: asyncpg.Connection,
) -> None:
    await leased_elsewhere(pool, await asked_elsewhere(pool, practice, organization))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventsync", *SYNC, env=settings_env, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        assert b"following it" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = await process.stderr.read()
        assert await process.wait() == 1
    assert b"goes on without this command" in said
    row = await database.fetchrow("SELECT status, cancel_requested_at FROM sync_logs")
    assert (row["status"], row["cancel_requested_at"]) == ("running", None)


async def test_a_dry_run_says_what_would_change_and_changes_nothing(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    await cli(*SYNC)
    chosen = practice.sandbox.act_unheard("edit", field="price").record_id
    practice.sandbox.act_unheard("book")
    before = await database.fetch("SELECT * FROM appointments ORDER BY id")
    calls = practice.calls
    ended = await cli(*SYNC, "--dry-run", "--json")
    assert ended.exit_code == 0, ended.stderr
    (told,) = ended.json
    would = told["would_change"]
    assert (would["appointments_new"], would["appointments_updated"], would["appointments_unchanged"]) == (1, 1, 59)
    assert {"kind": "appointment", "external_id": chosen, "effect": "updated", "fields": ["price"]} in would["records"]
    assert would["calls_made"] == practice.calls - calls
    assert told["cost"]["calls"] == sum(entry["calls"] for entry in told["cost"]["lists"])
    assert await database.fetch("SELECT * FROM appointments ORDER BY id") == before
    assert await database.fetchval("SELECT count(*) FROM sync_logs") == 1
    text = (await cli(*SYNC, "--dry-run")).stdout
    assert "1 new, 1 updated (0 of them deleted), 59 unchanged, 0 errors; 0 new patients" in text
    assert chosen is not None
    assert [line.split() for line in text.splitlines() if chosen in line] == [
        ["appointment", chosen, "updated", "price"]
    ]
    assert "Test Client" not in text
    assert "@" not in text


async def test_a_dry_run_that_could_read_nothing_ends_with_1_and_says_why(
    cli: Cli, practice: Practice, database: asyncpg.Connection
) -> None:
    practice.sandbox.script.add(ScriptedCall(route="*", times=None, answer=ApiAnswer.HTML, status=503))
    ended = await cli(*SYNC, "--dry-run")
    assert ended.exit_code == 1
    assert "error: Failed to fetch from PracticeQ" in ended.stderr
    assert "not read: " in ended.stderr


async def test_the_cost_alone_makes_no_call(cli: Cli, practice: Practice) -> None:
    ended = await cli(*SYNC, "--cost-only")
    assert ended.exit_code == 0
    assert ended.stdout.startswith("connection 1: the sync costs at least ")
    assert "all clients" in ended.stdout
    assert "backfill 1 --dry-run" in ended.stderr
    assert practice.calls == 0
    told = (await cli(*SYNC, "--mode", "changes", "--cost-only", "--json")).json
    assert "changed appointments" in [entry["list"] for entry in told[0]["cost"]["lists"]]


@pytest.mark.parametrize("vendor", ["cliniko", "plants"])
async def test_other_vendors_are_answered_with_what_there_is(bare_cli: Cli, vendor: str) -> None:
    ended = await bare_cli("sync", vendor)
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1] == f"Error: '{vendor}' cannot be synced: today there is intakeq"


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["--mode", "changes", "--days-back", "0"], 2),
        (["--mode", "changes", "--allow-mass-delete"], 2),
        (["--mode", "half"], 2),
        (["--days-back", "-1"], 2),
        (["--org", "nobody"], 1),
        (["--connection", "99"], 1),
        ([], 1),
    ],
)
async def test_what_cannot_be_synced_ends_with_its_code(cli: Cli, words: list[str], exit_code: int) -> None:
    ended = await cli(*SYNC, *words)
    assert (ended.exit_code, ended.stdout) == (exit_code, "")
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


async def test_a_disabled_connection_is_not_synced(cli: Cli, practice: Practice) -> None:
    await cli("connections", "disable", "1")
    ended = await cli(*SYNC)
    assert ended.exit_code == 1
    assert practice.calls == 0
