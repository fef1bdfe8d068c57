"""A dry run tells exactly what a run would do, and leaves the copy and everything around it as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import RunRequest, RunStatus, SyncType
from eventsync.postgres.absences import Absences
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Channel
from eventsync.sandbox import ApiAnswer
from eventsync.stages.dry_run import DryRun, DryRunReport, RunCost
from eventsync.stages.proposals import Effect
from eventsync.stages.reading import Store
from stages.sync_site import VENDORS, SyncSite, open_site

LEDGER = {"api_calls", "api_closures"}  # calls that were made are spent


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    async with open_site(pool, keyring) as opened:
        yield opened


def dry_run(site: SyncSite) -> DryRun:
    store = Store(site.pool, site.spine.writer, site.runs, site.spine.metrics, site.clock)
    return DryRun(store, Coverage(site.pool), Absences(site.pool), VENDORS, site.open_account)


def request(site: SyncSite, sync_type: SyncType = SyncType.AUTOMATED_DAILY, **options: Any) -> RunRequest:
    return RunRequest(sync_type, site.connection.id, site.owner_id, "test", options=options)


async def look_ahead(site: SyncSite, wanted: RunRequest | None = None) -> tuple[RunCost, DryRunReport]:
    ahead, wanted = dry_run(site), wanted or request(site)
    cost = await ahead.cost(site.connection, wanted)
    return cost, await ahead.read(site.connection, wanted, cost)


async def everything(database: asyncpg.Connection) -> dict[str, list[str]]:
    """Read every row of every table, but for the ledger of calls."""
    tables = await database.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relkind = 'r'"
    )
    found = {}
    for name in sorted({row["name"] for row in tables} - LEDGER):
        rows = await database.fetch(f"SELECT t::text AS row FROM {name} t ORDER BY 1")  # noqa: S608  # the catalogue's
        found[name] = [row["row"] for row in rows]
    assert {"appointments", "sync_logs", "sync_coverage", "drift_findings", "change_outbox"} <= found.keys()
    return found


def disturb(site: SyncSite) -> dict[str, str]:
    """Let the practice change without a webhook; name what was touched."""
    act = site.sandbox.act_unheard
    living = list(site.practice.appointments.values())
    ahead = [a for a in living if a.start_ms > site.ms(days=1)]
    moved, priced, gone = (appointment.id for appointment in ahead[:3])
    act("reschedule", id=moved, start_ms=site.ms(days=5))
    act("edit", id=priced, field="price")
    act("delete", id=gone)
    client_id = act("add_client").record_id
    booked = act("book", start_ms=site.ms(days=3)).record_id
    assert client_id is not None
    assert booked is not None
    return {"moved": moved, "priced": priced, "gone": gone, "client": client_id, "booked": booked}


@pytest.mark.parametrize("sync_type", [SyncType.AUTOMATED_DAILY, SyncType.MANUAL_ORG_BULK])
async def test_it_tells_what_the_run_then_does(site: SyncSite, sync_type: SyncType) -> None:
    await site.sync()
    site.clock.advance(minutes=20)
    touched = disturb(site)
    site.clock.advance(minutes=20)
    _, report = await look_ahead(site, request(site, sync_type))
    run = await site.sync(sync_type)
    assert run.status is RunStatus.COMPLETED, run
    told, done = report.counts, run.counts
    assert (told.appointments_new, told.appointments_updated) == (done.appointments_new, done.appointments_updated)
    assert (told.appointments_new, told.appointments_updated, report.appointments_deleted) == (1, 3, 1)
    assert report.new_patients == run.metadata["newPatientsDiscovered"] == 1
    changes = {change.external_id: (change.effect, set(change.fields)) for change in report.changes}
    assert changes.keys() == set(touched.values())
    assert changes[touched["priced"]] == (Effect.UPDATED, {"price"})
    assert {"start_time", "end_time"} <= changes[touched["moved"]][1]
    assert changes[touched["gone"]][0] is Effect.DELETED
    assert changes[touched["booked"]] == changes[touched["client"]] == (Effect.NEW, set())
    if sync_type is SyncType.AUTOMATED_DAILY:
        assert told.appointments_unchanged == done.appointments_unchanged


async def test_of_an_empty_copy_everything_would_be_new_and_the_copy_stays_empty(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    before = await everything(database)
    cost, report = await look_ahead(site)
    assert not cost.is_size_known
    assert (report.counts.appointments_new, report.new_patients) == (60, 20)
    assert report.course.is_whole
    assert report.not_listed == {}
    assert await everything(database) == before


async def test_nothing_stays_of_it_but_the_calls(site: SyncSite, database: asyncpg.Connection) -> None:
    await site.sync()
    site.clock.advance(hours=24)
    disturb(site)
    site.clock.advance(hours=1)
    heard: list[str] = []
    for channel in Channel:
        await database.add_listener(channel, lambda _c, _pid, name, _payload: heard.append(name))
    before = await everything(database)
    spent = site.calls
    _, report = await look_ahead(site)
    assert report.changes
    assert await everything(database) == before
    await database.execute("SELECT pg_notify('eventsync_runs', 'last')")
    assert heard == ["eventsync_runs"]  # ours, which came after whatever the dry run had sent
    assert report.calls == site.calls - spent > 0


async def test_the_cost_is_told_without_any_call_and_is_what_the_lists_cost(site: SyncSite) -> None:
    await site.sync()
    site.clock.advance(hours=24)
    spent = site.calls
    cost = await dry_run(site).cost(site.connection, request(site))
    assert site.calls == spent
    assert cost.is_size_known
    assert cost.calls == cost.other_calls + sum(planned.expected_calls for planned in cost.lists)
    run = await site.sync()
    assert run.metadata["intakeq_api_calls"] == cost.calls


async def test_other_days_are_read_where_they_are_given(site: SyncSite) -> None:
    _, narrow = await look_ahead(site, request(site, days_back=1, days_ahead=1))
    _, wide = await look_ahead(site)
    assert narrow.counts.appointments_new < wide.counts.appointments_new == 60


async def test_records_that_are_not_listed_are_counted_but_for_those_told_as_deleted(site: SyncSite) -> None:
    await site.sync()
    site.clock.advance(hours=24)
    ahead = [a.id for a in site.practice.appointments.values() if a.start_ms > site.ms(days=1)]
    site.sandbox.act_unheard("delete", id=ahead[0])
    site.sandbox.act_unheard("delete", id=ahead[1], deleted_ms=site.ms(days=-11))
    site.clock.advance(hours=1)
    _, report = await look_ahead(site)
    assert report.appointments_deleted == 1
    assert report.not_listed == {RecordKind.APPOINTMENT: 1}


async def test_a_row_that_postgres_refuses_is_one_error_and_its_neighbours_are_told(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    site.clock.advance(minutes=20)
    refused = site.sandbox.act_unheard("book", start_ms=site.ms(days=2)).record_id
    kept = site.sandbox.act_unheard("book", start_ms=site.ms(days=2)).record_id
    await database.execute(f"ALTER TABLE appointments ADD CHECK (external_id <> '{refused}')")
    site.clock.advance(minutes=10)
    _, report = await look_ahead(site)
    run = await site.sync()
    told, done = report.counts, run.counts
    assert (told.appointments_new, told.appointments_errors) == (done.appointments_new, done.appointments_errors)
    assert (told.appointments_new, told.appointments_errors) == (1, 1)
    assert kept in {change.external_id for change in report.changes}
    assert report.errors == ("a row of the appointments was not kept (database_refused)",)


async def test_a_client_that_cannot_be_understood_is_no_error_of_an_appointment(site: SyncSite) -> None:
    client = next(iter(site.practice.clients.values()))
    site.practice.put_client(replace(client, modified_ms=-1))
    _, report = await look_ahead(site)
    assert report.counts.appointments_errors == 0
    (error,) = report.errors
    assert error.startswith("a row of the patients was not kept")


async def test_it_works_beside_a_run(site: SyncSite) -> None:
    lease = await site.lease()
    ahead = dry_run(site)
    cost = await ahead.cost(site.connection, request(site))
    end, report = await asyncio.gather(site.reconciler().run(lease), ahead.read(site.connection, request(site), cost))
    assert end.status is RunStatus.COMPLETED, end
    assert end.counts.appointments_new == 60
    seen = report.counts.appointments_new + report.counts.appointments_unchanged
    assert seen == 60


async def test_a_list_that_fails_is_told_and_the_others_are_read(site: SyncSite) -> None:
    site.script("/clients", times=None, query={"deletedOnly": None}, answer=ApiAnswer.HTML, status=503)
    _, report = await look_ahead(site)
    assert report.counts.appointments_new == 60
    assert [planned.kind for planned in report.course.failed] == [RecordKind.PATIENT]
    assert len(report.errors) == 1
    assert "all clients" in report.errors[0]


async def test_a_vendor_that_fails_is_not_asked_on_and_on(site: SyncSite) -> None:
    site.script("*", times=None, answer=ApiAnswer.HTML, status=503)
    cost, report = await look_ahead(site)
    assert len(report.course.failed) == 3
    assert len(report.course.left) == len(cost.lists) - 3
    assert report.course.stopped_because is not None


async def test_refused_credentials_end_it(site: SyncSite) -> None:
    site.sandbox.set_api_key("another-key")
    with pytest.raises(Misconfigured, match="api_key"):
        await look_ahead(site)


async def test_a_spent_budget_ends_it_and_says_what_was_not_read(pool: Database, keyring: Keyring) -> None:
    async with open_site(pool, keyring, settings={"calls_per_minute": "100", "calls_per_day": "4"}) as site:
        cost, report = await look_ahead(site)
        assert cost.calls_left == 4
        assert report.calls == 3  # the last one is for others
        assert report.course.stopped_because is not None
        assert len(report.course.left) == len(cost.lists) - 3
        assert report.counts.appointments_new > 0
