"""How the statements of runs find their rows in a large installation, whatever the planner knows of it.

Those of a page, a person or the scheduler look up a few by index; those of a run's end read its own connection once.

Plans are made for the very arguments or for any, as PostgreSQL does once a session has run a statement some times: then
a list of tens of thousands of ids must not be compared with each row.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from eventsync.postgres.absences import SQL as ABSENCES
from eventsync.postgres.coverage import SQL as COVERAGE
from eventsync.postgres.patient_refreshes import SQL as PATIENT_REFRESHES
from eventsync.postgres.providers import SQL as PROVIDERS
from eventsync.postgres.run_patients import SQL as RUN_PATIENTS
from eventsync.postgres.runs import SQL as RUNS
from eventsync.postgres.schedules import SQL as SCHEDULES
from eventsync.postgres.summaries import SQL as SUMMARIES
from eventsync.postgres.sync_reports import SQL as SYNC_REPORTS
from eventsync.postgres.sync_targets import SQL as SYNC_TARGETS
from postgres.large_installation import (
    ALL_APPOINTMENTS,
    CLIENTS,
    DAY,
    IN_WINDOW,
    LARGE,
    MISSED,
    NOW,
    OLD,
    appointment_of,
    connection_of,
    large_installation,
    local_patient,
    named,
    organization,
    patient_of,
    run_of,
    worker_of,
)
from postgres.test_queue_plans import as_text, connected, every_situation, parts_of, plan_of, rows_looked_at
from servers.postgres import DatabaseServer

OWNER, PARTNER, WIDE_PARTNER = organization(LARGE), organization(201), organization(202)
MINE = connection_of(LARGE)
TODAY = NOW.date()
SOON = NOW + timedelta(minutes=1)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)
WINDOW = (MIDNIGHT - 91 * DAY, MIDNIGHT + 92 * DAY)
COUNTS = (12, 1, 3, 5, 42, 2)
PAGE = [named(number) for number in range(1, 101)]
LISTED = [named(number) for number in range(1, IN_WINDOW + 1) if number % 1000]
LISTED_CLIENTS = [named(number) for number in range(1, CLIENTS + 1) if number % 1000]
NOTES = (PAGE, ["Completed"] * 100, ["g" if number % 3 else "f" for number in range(100)], [True] * 100)
FOLLOWED = [patient_of(LARGE, number) for number in range(1, 11)]
READ = [appointment_of(LARGE, number) for number in range(1, 51)]
SWEEP_DUE = NOW - timedelta(minutes=30, seconds=1)  # of run 1

Statements = Mapping[str, tuple[str, Sequence[Any]]]
GOES_ON, WAITS = run_of(LARGE, 1), run_of(2, 20)
FENCE = (GOES_ON, worker_of(LARGE, 1), NOW)

BY_KEY: Statements = {
    "find_standing": (RUNS.find_standing, [MINE, "automated_sweep", OWNER, None, SWEEP_DUE]),
    "find_standing of a new time": (RUNS.find_standing, [MINE, "automated_sweep", OWNER, None, NOW]),
    "find_standing of a partner": (RUNS.find_standing, [MINE, "manual_org_bulk", PARTNER, None, None]),
    "find_standing of a patient": (RUNS.find_standing, [MINE, "manual_patient", OWNER, patient_of(LARGE, 7), None]),
    "answer_schedule": (RUNS.answer_schedule, [run_of(LARGE, 3), NOW]),
    "insert": (RUNS.insert, ["backfill", MINE, OWNER, None, "test", None, "{}", NOW]),
    "next_claim": (RUNS.next_claim, [None]),
    "next_claim of one": (RUNS.next_claim, [WAITS]),
    "claim": (RUNS.claim, [WAITS, UUID(int=1), NOW, SOON]),
    "heartbeat": (RUNS.heartbeat, [*FENCE, SOON]),
    "hold": (RUNS.hold, [*FENCE, *COUNTS, "{}"]),
    "reads_beside": (RUNS.reads_beside, [MINE, GOES_ON, NOW - 300 * DAY, ["note", "intake"], PAGE]),
    "end": (RUNS.end, [*FENCE, "completed", *COUNTS, None, "{}"]),
    "give_back": (RUNS.give_back, FENCE),
    "find_lost": (RUNS.find_lost, [NOW, NOW + timedelta(minutes=10)]),
    "find_lost of all": (RUNS.find_lost, [NOW + DAY, NOW + 2 * DAY]),
    "rescue": (RUNS.rescue, [[run_of(number, 1) for number in range(1, 41, 2)], NOW, 3]),
    "cancel": (RUNS.cancel, [WAITS, NOW]),
    "find": (RUNS.find, [WAITS]),
    "load_cursors": (COVERAGE.load_cursors, [MINE]),
    "load_coverage": (COVERAGE.load_coverage, [MINE, NOW - 30 * DAY, None]),
    "load_coverage of a run": (COVERAGE.load_coverage, [MINE, NOW - 900 * DAY, run_of(LARGE, 7)]),
    "load_walks": (COVERAGE.load_walks, [MINE]),
    "watched_since": (COVERAGE.watched_since, [MINE]),
    "insert_coverage": (COVERAGE.insert_coverage, [MINE, "appointment", GOES_ON, *([each] for each in (*WINDOW, NOW))]),
    "advance_cursor": (COVERAGE.advance_cursor, [MINE, "appointment", "changed", NOW - DAY, NOW, None]),
    "keep_walk": (COVERAGE.keep_walk, [MINE, "patient", 5, NOW]),
    "end_walk": (COVERAGE.end_walk, [MINE, "patient"]),
    "remember absences": (ABSENCES.remember, [MINE, "appointment", PAGE, NOW]),
    "begin_sweeps": (SCHEDULES.begin_sweeps, [["intakeq"], NOW]),
    "list_connections": (SCHEDULES.list_connections, [["intakeq"]]),
    "put_off_sweep": (SCHEDULES.put_off_sweep, [MINE, NOW, SOON]),
    "plan_sweep": (SCHEDULES.plan_sweep, [MINE, NOW]),
    "find_unlike": (SUMMARIES.find_unlike, [MINE, "note", *NOTES]),
    "remember summaries": (SUMMARIES.remember, [MINE, "note", PAGE, ["g"] * 100]),
    "lease_read": (SUMMARIES.lease_read, [MINE, "note", named(2), NOW, SOON]),
    "end_read": (SUMMARIES.end_read, [MINE, "note", named(2), 1]),
    "find_rights": (SYNC_REPORTS.find_rights, [run_of(LARGE, 14), PARTNER, TODAY]),
    "list_visible_patients": (SYNC_REPORTS.list_visible_patients, [FOLLOWED, PARTNER, TODAY]),
    "list_appointments": (SYNC_REPORTS.list_appointments, [READ, NOW]),
    "list_latest": (SYNC_REPORTS.list_latest, [OWNER, 10]),
    "list_latest of a partner": (SYNC_REPORTS.list_latest, [PARTNER, 10]),
    "list_latest of nobody": (SYNC_REPORTS.list_latest, [organization(209), 10]),
    "list_owned": (SYNC_TARGETS.list_owned, ["intakeq", OWNER]),
    "list_owned by everyone": (SYNC_TARGETS.list_owned, ["intakeq", None]),
    "list_of_patient": (SYNC_TARGETS.list_of_patient, ["intakeq", patient_of(LARGE, 3)]),
    "list_of_patient whom nobody knows": (SYNC_TARGETS.list_of_patient, ["intakeq", local_patient(3)]),
    "load_patient": (PATIENT_REFRESHES.load_patient, [MINE, patient_of(LARGE, 3), PARTNER, TODAY]),
    "load_patient whom nobody knows": (PATIENT_REFRESHES.load_patient, [MINE, local_patient(3), OWNER, TODAY]),
    "load_clients": (PATIENT_REFRESHES.load_clients, [MINE, patient_of(LARGE, 3)]),
    "rule_out_clients": (PATIENT_REFRESHES.rule_out_clients, [MINE, [named(3), named(5)], patient_of(LARGE, 3)]),
    "find_of_others": (PATIENT_REFRESHES.find_of_others, [MINE, PAGE, [named(3)]]),
    "find_unlisted": (PATIENT_REFRESHES.find_unlisted, [MINE, [named(3)], *WINDOW, [named(2)]]),
    "suspect": (PATIENT_REFRESHES.suspect, [MINE, PAGE, NOW]),
    "clear": (PATIENT_REFRESHES.clear, [MINE, PAGE, NOW]),
    "mark_synced of a patient": (PATIENT_REFRESHES.mark_synced, [patient_of(LARGE, 3), NOW, NOW, NOW.date()]),
    "map": (PROVIDERS.map, [MINE, "3", "Test Practitioner", None, NOW, OWNER]),
    "list providers": (PROVIDERS.list, [OWNER, None]),
    "learn": (PROVIDERS.learn, [MINE, ["1", "21"], ["Test Practitioner"] * 2, [None, None], NOW]),
    "without_name": (PROVIDERS.without_name, [MINE, ["1", "21"]]),
}
"""What runs for every page, request, heartbeat or turn of the scheduler: a few rows, by index."""

OF_ONE: Statements = {
    "count_clients": (COVERAGE.count_clients, [MINE, NOW]),
    "count_appointments": (COVERAGE.count_appointments, [MINE, NOW]),
    "count_appointments_by_day": (COVERAGE.count_appointments_by_day, [MINE, *WINDOW]),
    "load_found": (COVERAGE.load_found, [MINE, run_of(LARGE, 7), NOW - timedelta(hours=1)]),
    "find_missing_appointments": (ABSENCES.find_missing_appointments, [MINE, *WINDOW, NOW, 300.0, LISTED]),
    "count held appointments": (ABSENCES.count_appointments, [MINE, *WINDOW]),
    "find_missing_clients": (ABSENCES.find_missing_clients, [MINE, NOW, 300.0, LISTED_CLIENTS]),
    "count held clients": (ABSENCES.count_clients, [MINE]),
    "remember_missing_appointments": (ABSENCES.remember_missing_appointments, [MINE, *WINDOW, NOW, 300.0, LISTED]),
    "remember_missing_clients": (ABSENCES.remember_missing_clients, [MINE, NOW, 300.0, LISTED_CLIENTS]),
    "forget all listed": (ABSENCES.forget, [MINE, "appointment", LISTED]),
    "forget some": (ABSENCES.forget, [MINE, "appointment", PAGE]),
    "forget one": (ABSENCES.forget, [MINE, "appointment", [named(7)]]),
    "forget_refuted": (ABSENCES.forget_refuted, [MINE, 300.0]),
    "count_patients": (RUN_PATIENTS.count_patients, [MINE, OWNER, None, TODAY, None, None]),
    "count_patients of lists": (RUN_PATIENTS.count_patients, [MINE, OWNER, None, TODAY, LISTED, PAGE]),
    "count_patients of a partner": (RUN_PATIENTS.count_patients, [MINE, OWNER, PARTNER, TODAY, LISTED[:500], None]),
    "mark_synced": (RUN_PATIENTS.mark_synced, [MINE, OWNER, None, NOW, None]),
    "mark_synced of lists": (RUN_PATIENTS.mark_synced, [MINE, OWNER, None, NOW, LISTED]),
    "mark_synced of few": (RUN_PATIENTS.mark_synced, [MINE, OWNER, None, NOW, PAGE[:2]]),
    "mark_synced of a partner": (RUN_PATIENTS.mark_synced, [MINE, OWNER, PARTNER, NOW, LISTED[:500]]),
    "count_appointments of a person's run": (
        RUN_PATIENTS.count_appointments,
        [MINE, OWNER, None, TODAY, LISTED[:100], LISTED[100:], *WINDOW, PAGE],
    ),
    "count_appointments of a partner's run": (
        RUN_PATIENTS.count_appointments,
        [MINE, OWNER, PARTNER, TODAY, LISTED[:100], LISTED[100:600], *WINDOW, PAGE],
    ),
    "unknown practitioners": (PROVIDERS.unknown, [MINE, NOW - 90 * DAY, NOW + 90 * DAY]),
    "measure": (SYNC_REPORTS.measure, [OWNER]),
    "measure of a partner": (SYNC_REPORTS.measure, [PARTNER]),
    "list_owned_or_followed": (SYNC_TARGETS.list_owned_or_followed, ["intakeq", PARTNER, TODAY]),
    "list_owned_or_followed widely": (SYNC_TARGETS.list_owned_or_followed, ["intakeq", WIDE_PARTNER, TODAY]),
    "list_owned_or_followed by nobody": (SYNC_TARGETS.list_owned_or_followed, ["intakeq", OWNER, TODAY]),
}
"""What reads all that one connection or organization has, once."""

FILTERED: Statements = {
    "everyone's": (RUNS.list_recent, [None, None, None, 10]),
    "of a connection": (RUNS.list_recent, [MINE, None, None, 10]),
    "of a connection and a type": (RUNS.list_recent, [MINE, None, "automated_daily", 10]),
    "of an organization": (RUNS.list_recent, [None, OWNER, None, 10]),
    "of a type that there is none of": (RUNS.list_recent, [None, None, "interval", 10]),
    "of an organization and a type that it has none of": (RUNS.list_recent, [None, OWNER, "interval", 10]),
}
"""What people filter as they like."""

_ALL_SQL = (
    RUNS, COVERAGE, ABSENCES, RUN_PATIENTS, SCHEDULES, SUMMARIES, SYNC_REPORTS, SYNC_TARGETS, PATIENT_REFRESHES,
    PROVIDERS,
)  # fmt: skip
_LOCKS = {RUNS.lock_requests, RUNS.lock_claims}
_FEW = 500
_LONGEST_S = 10  # none takes a second; what compares each row with each listed id takes minutes
_SMALL = {
    "connections", "organizations", "sync_schedules", "sync_cursors", "sync_walks", "provider_intakeq_settings",
}  # fmt: skip  # as many rows as there are connections, or some for each
# All names of practitioners; a connection's own absence candidates, where only few are thought to be there.
_MORE = {"provider_intakeq_settings": 4_000, "absence_candidates": MISSED, "absence_candidates_pkey": MISSED}
_READ_IN_A_ROW = {
    "count_appointments": {"appointments"},  # nearly half of them are this connection's
    "load_found": {"appointments"},
    "find_missing_appointments": {"absence_candidates"},  # a third of them are this connection's
    "forget all listed": {"absence_candidates"},
    "forget some": {"absence_candidates"},
    "forget one": {"absence_candidates"},
    "count_patients": {"patients"},  # narrow rows, a tenth of them this owner's
    "count_patients of lists": {"patients"},
    "count_patients of a partner": {"patients"},
    "count_appointments of a person's run": {"patients"},
    "count_appointments of a partner's run": {"patients", "patient_organization_affiliations"},
    "list_owned_or_followed": {"patient_organization_affiliations"},  # half of them are the partner's
    "list_owned_or_followed widely": {"patient_organization_affiliations"},
    "list_owned_or_followed by nobody": {"patient_organization_affiliations"},
}
"""Where the planner may rather read a table from its beginning to its end than jump about in a large part of it."""
_LINEAR = re.compile(r"\b(ANY|ALL) \(+\$")


@pytest.fixture(scope="module")
def large_urls(postgres_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """A large installation twice, by what the planner knows of it: `stale` and `fresh` statistics."""
    with asyncio.Runner() as runner:
        opened = large_installation(postgres_server)
        yield runner.run(anext(opened))
        runner.run(opened.aclose())


def test_every_statement_of_runs_is_guarded() -> None:
    every = {getattr(sql, name) for sql in _ALL_SQL for name in sql.__dataclass_fields__}
    guarded = {sql for statements in (BY_KEY, OF_ONE, FILTERED) for sql, _ in statements.values()}
    assert every == guarded | _LOCKS


@every_situation
@pytest.mark.parametrize("name", BY_KEY)
async def test_what_runs_often_looks_at_few_rows(
    large_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = BY_KEY[name]
    plan = await plan_of(large_urls[statistics], sql, arguments, is_generic=is_generic)
    assert plan
    for part in plan:
        assert_no_large_table_is_read_through(part)
        most = _MORE.get(part.get("Relation Name") or part.get("Index Name", ""), _FEW)
        assert part["Node Type"] == "Hash" or rows_looked_at(part) <= most, part


@every_situation
@pytest.mark.parametrize("name", OF_ONE)
async def test_a_runs_end_reads_its_own_connection_once(
    large_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = OF_ONE[name]
    async with asyncio.timeout(_LONGEST_S):
        plan = await plan_of(large_urls[statistics], sql, arguments, is_generic=is_generic)
    for part in plan:
        if part.get("Relation Name") in _READ_IN_A_ROW.get(name, ()) and part["Node Type"] == "Seq Scan":
            assert rows_looked_at(part) <= 1.01 * ALL_APPOINTMENTS, part  # several workers' rows are averages
            continue
        assert_no_large_table_is_read_through(part)
        assert rows_looked_at(part) <= IN_WINDOW + OLD, part
        assert_ids_are_not_compared_one_by_one(part)


@pytest.mark.parametrize("statistics", ["fresh", "stale"])
@pytest.mark.parametrize("name", FILTERED)
async def test_a_list_of_runs_looks_at_few_of_them_however_often_it_was_asked_for(
    large_urls: dict[str, str], name: str, statistics: str
) -> None:
    sql, arguments = FILTERED[name]
    for part in await plan_after_many(large_urls[statistics], sql, arguments):
        assert_no_large_table_is_read_through(part)
        assert rows_looked_at(part) <= 10 * _FEW, part


def assert_no_large_table_is_read_through(part: Mapping[str, Any]) -> None:
    assert part["Node Type"] != "Seq Scan" or part["Relation Name"] in _SMALL, part


def assert_ids_are_not_compared_one_by_one(part: Mapping[str, Any]) -> None:
    """Tell what no count of rows tells: in a plan for any arguments, an array's items are tried one after the other."""
    filters = [str(text) for name, text in part.items() if name.endswith("Filter")]
    assert rows_looked_at(dict(part)) <= _FEW or not any(map(_LINEAR.search, filters)), part


async def plan_after_many(url: str, sql: str, arguments: Sequence[Any]) -> list[dict[str, Any]]:
    """Answer the plan that PostgreSQL has chosen itself, for a session that has run the statement many times."""
    async with connected(url) as connection:
        await connection.execute(f"PREPARE probe AS {sql}")
        given = [await connection.fetchval("SELECT quote_nullable($1)", as_text(value)) for value in arguments]
        call = f"EXECUTE probe({', '.join(given)})"
        for _ in range(7):
            await connection.execute(call)
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, FORMAT JSON) {call}")
    return [part for part in parts_of(json.loads(explained)[0]["Plan"]) if part["Actual Loops"]]
