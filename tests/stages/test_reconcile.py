"""A run reads what it is for, writes what differs, and tells the truth about both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from aiohttp import web

from e2e.sandbox_truth import appointment_rows, expected_appointments
from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.sandbox import Effect
from eventsync.sandbox.intakeq.appointment_forms import list_form
from eventsync.sandbox.intakeq.records import OPEN_STATUSES, Appointment
from stages.sync_site import SyncSite, open_site
from unit.vendor_server import vendor_server

LISTS = "/appointments"


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    async with open_site(pool, keyring) as opened:
        yield opened


async def test_a_first_full_run_brings_the_whole_practice(site: SyncSite, database: asyncpg.Connection) -> None:
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert await appointment_rows(database) == expected_appointments(site.sandbox.truth("appointment"))
    assert run.counts.appointments_new == 60
    assert await database.fetchval("SELECT count(*) FROM patients") == 20
    assert await database.fetchval("SELECT count(*) FROM drift_findings") == 0


async def test_a_second_full_run_writes_nothing(site: SyncSite, database: asyncpg.Connection) -> None:
    await site.sync()
    before = await database.fetch("SELECT xmin::text, * FROM appointments ORDER BY id")
    site.clock.advance(hours=1)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED
    assert (run.counts.appointments_new, run.counts.appointments_updated) == (0, 0)
    assert run.counts.appointments_unchanged == 60
    assert await database.fetch("SELECT xmin::text, * FROM appointments ORDER BY id") == before


async def test_a_sweep_brings_what_no_webhook_told(site: SyncSite, database: asyncpg.Connection) -> None:
    await site.sync()
    site.clock.advance(minutes=20)
    site.sandbox.act_unheard("book")
    site.sandbox.act_unheard("cancel")
    site.sandbox.act_unheard("delete")
    site.clock.advance(minutes=20)
    run = await site.sync(SyncType.AUTOMATED_SWEEP)
    assert run.status is RunStatus.COMPLETED, run
    assert await appointment_rows(database) == expected_appointments(site.sandbox.truth("appointment"))
    assert (run.counts.appointments_new, run.counts.appointments_updated) == (1, 2)
    assert run.metadata["appointments_deleted"] == 1


async def test_a_webhook_heard_while_its_page_is_on_its_way_stays_the_newer(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    site.clock.advance(hours=1)
    (chosen,) = open_appointments(site, 1)
    site.sandbox.act_unheard("edit", id=chosen, field="price")  # what the page says
    site.clock.advance(minutes=1)

    async def reschedule_and_tell() -> None:
        await site.hear(site.sandbox.act("reschedule", id=chosen, start_ms=site.ms(days=2)))

    site.script(LISTS, after=reschedule_and_tell)  # committed before the page is
    run = await site.sync(SyncType.AUTOMATED_SWEEP)
    assert run.status is RunStatus.COMPLETED, run
    assert site.sandbox.script.pending == ()
    await site.require_true_copy(database)


async def test_a_webhook_that_comes_after_the_page_it_overtook_stays_the_newer(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    site.clock.advance(hours=1)
    (chosen,) = open_appointments(site, 1)
    site.sandbox.act_unheard("edit", id=chosen, field="price")
    site.clock.advance(minutes=1)
    told: list[Effect] = []

    async def reschedule() -> None:
        told.append(site.sandbox.act("reschedule", id=chosen, start_ms=site.ms(days=2)))

    site.script(LISTS, after=reschedule)
    await site.sync(SyncType.AUTOMATED_SWEEP)
    await site.hear(told[0])  # committed after the page was
    await site.require_true_copy(database)


async def test_a_webhook_that_is_older_than_the_page_changes_nothing(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    site.clock.advance(hours=1)
    (chosen,) = open_appointments(site, 1)
    late = site.sandbox.act("reschedule", id=chosen, start_ms=site.ms(days=2))
    site.clock.advance(minutes=1)
    told: list[Effect] = []

    async def cancel() -> None:
        told.append(site.sandbox.act("cancel", id=chosen))

    site.script(LISTS, before=cancel)  # the page has it already
    await site.sync(SyncType.AUTOMATED_SWEEP)
    await site.hear(late)
    await site.require_true_copy(database)
    await site.hear(told[0])
    await site.require_true_copy(database)


async def test_an_appointment_without_client_and_a_client_without_name_are_kept(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    alone = site.sandbox.act_unheard("book", without_client=True, start_ms=site.ms(days=3)).record_id
    nameless = site.sandbox.act_unheard("add_client", nameless=True, email=None).record_id
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert run.counts.appointments_errors == 0
    row = await database.fetchrow("SELECT * FROM appointments WHERE external_id = $1", alone)
    assert row is not None
    assert (row["client_external_id"], row["patient_id"]) == (None, None)
    patient = await database.fetchrow("SELECT * FROM patients WHERE intakeq_client_id = $1", nameless)
    assert patient is not None
    assert (patient["first_name"], patient["last_name"]) == ("Unknown", "Unknown")


async def test_two_clients_with_one_email_stay_two_patients_with_their_own_appointments(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    pair = [site.sandbox.act_unheard("add_client", email="shared@example.test").record_id for _ in range(2)]
    booked = {
        client: site.sandbox.act_unheard("book", client_id=int(client), start_ms=site.ms(days=3)).record_id
        for client in pair
    }
    await site.sync()
    rows = await database.fetch("SELECT id, intakeq_client_id FROM patients WHERE email = 'shared@example.test'")
    patients = {row["intakeq_client_id"]: row["id"] for row in rows}
    assert set(patients) == set(pair)
    for client, appointment in booked.items():
        held = await database.fetchval("SELECT patient_id FROM appointments WHERE external_id = $1", appointment)
        assert held == patients[client]


async def test_an_email_that_changes_stays_with_the_client_whom_the_number_names(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    site.clock.advance(hours=24)
    client_id = next(iter(site.practice.clients))
    before = await database.fetchrow("SELECT * FROM patients WHERE intakeq_client_id = $1", str(client_id))
    site.sandbox.act_unheard("edit_client", client_id=client_id, email="moved@example.test")
    site.clock.advance(minutes=10)
    run = await site.sync(SyncType.AUTOMATED_SWEEP)
    assert run.status is RunStatus.COMPLETED, run
    after = await database.fetchrow("SELECT * FROM patients WHERE intakeq_client_id = $1", str(client_id))
    assert before is not None
    assert after is not None
    assert (after["id"], after["email"]) == (before["id"], "moved@example.test")
    assert await database.fetchval("SELECT count(*) FROM patients") == 20
    await site.require_true_copy(database)


async def test_a_practice_without_appointments_is_read_and_found_empty(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=3, appointments=0) as site:
        for sync_type in (SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP, SyncType.AUTOMATED_DAILY):
            run = await site.sync(sync_type)
            assert run.status is RunStatus.COMPLETED, run
            assert run.counts.appointments_new == run.counts.appointments_unchanged == 0
            site.clock.advance(hours=1)
        await site.require_true_copy(database)


async def test_a_practice_without_clients_is_read_and_found_empty(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=1, appointments=0) as site:
        site.sandbox.act_unheard("delete_clients", count=1, deleted_ms=site.ms(days=-30))
        for sync_type in (SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP, SyncType.AUTOMATED_DAILY):
            run = await site.sync(sync_type)
            assert run.status is RunStatus.COMPLETED, run
            assert run.metadata["totalPatients"] == run.metadata["newPatientsDiscovered"] == 0
            site.clock.advance(hours=1)
        assert await database.fetchval("SELECT count(*) FROM patient_identities WHERE deleted_at IS NULL") == 0


@dataclass
class ZonedVendor:
    """Stands before the pretend practice, and filters its appointments by whole days of a zone instead of UTC's."""

    site: SyncSite
    zone: ZoneInfo

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "startDate" in request.query:
            return web.json_response(self._listed(request.query))
        url = self.site.running.api_url + request.path
        key = {"X-Auth-Key": request.headers["X-Auth-Key"]}
        async with self.site.http.get(url, params=request.query, headers=key) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")

    def _listed(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        rows = sorted(self.site.practice.appointments.values(), key=lambda a: a.start_ms, reverse=True)
        wanted = [a for a in rows if query["startDate"] <= self._day(a) <= query["endDate"]]
        first = 100 * (int(query["page"]) - 1)
        return [list_form(a, self.zone) for a in wanted[first : first + 100]]

    def _day(self, appointment: Appointment) -> str:
        return datetime.fromtimestamp(appointment.start_ms / 1000, self.zone).date().isoformat()


@pytest.mark.parametrize(
    "vendors_zone", ["UTC", "Pacific/Kiritimati", "Pacific/Auckland", "Pacific/Honolulu", "Etc/GMT+12"]
)
@pytest.mark.parametrize("zone", ["Pacific/Auckland", "Pacific/Honolulu"])
async def test_nothing_at_the_borders_of_the_window_is_taken_for_gone_wherever_the_midnights_are(
    pool: Database, keyring: Keyring, database: asyncpg.Connection, zone: str, vendors_zone: str
) -> None:
    async with open_site(pool, keyring, clients=3, appointments=0, zone=zone) as site:
        site.sandbox.act_unheard("book_many", count=20 * 24, start_ms=site.ms(days=-10), every_ms=3_600_000)
        vendor = ZonedVendor(site, ZoneInfo(vendors_zone))
        async with vendor_server(vendor.answer) as url:
            site.spine.connections[site.connection.id] = replace(site.connection, base_url=url)
            first = await site.sync(days_back=10, days_ahead=11)
            assert first.counts.appointments_new == 20 * 24
            for _ in range(3):
                site.clock.advance(hours=17)  # another time of the day, and another day of one of the zones
                run = await site.sync(days_back=3, days_ahead=4)
                assert run.status is RunStatus.COMPLETED, run
                assert run.metadata["appointments_deleted"] == 0
        assert site.sandbox.stats.api_calls["GET /api/v1/appointments/{id}"] == 0
        assert await database.fetchval("SELECT count(*) FROM absence_candidates") == 0
        await site.require_true_copy(database)


@pytest.mark.parametrize(
    "evening", [datetime(2026, 10, 31, 23, tzinfo=UTC), datetime(2026, 3, 7, 23, tzinfo=UTC)], ids=["autumn", "spring"]
)
async def test_the_night_of_the_clock_change_is_read_as_any_other(
    pool: Database, keyring: Keyring, database: asyncpg.Connection, evening: datetime
) -> None:
    async with open_site(pool, keyring, clients=3, appointments=0, noon=evening) as site:
        site.sandbox.act_unheard("book_many", count=4 * 48, start_ms=site.ms(days=-2), every_ms=1_800_000)
        await site.sync()
        for _ in range(14):  # from the afternoon to the next morning
            site.clock.advance(hours=1)
            site.sandbox.act_unheard("book", start_ms=site.ms(minutes=30))
            site.sandbox.act_unheard("edit", field="price")
            site.clock.advance(minutes=1)
            run = await site.sync(SyncType.AUTOMATED_SWEEP)
            assert run.status is RunStatus.COMPLETED, run
            assert run.counts.appointments_new == 1
            today = site.clock().astimezone(ZoneInfo("America/Denver")).date()
            assert run.metadata["date_range"] == {
                "startDate": (today - timedelta(days=90)).isoformat(),
                "endDate": (today + timedelta(days=90)).isoformat(),
            }
        full = await site.sync()
        assert full.status is RunStatus.COMPLETED, full
        assert full.counts.appointments_unchanged == 4 * 48 + 14
        assert site.sandbox.stats.api_calls["GET /api/v1/appointments/{id}"] == 0
        await site.require_true_copy(database)


def open_appointments(site: SyncSite, count: int) -> list[str]:
    """Name appointments to come that can still be moved."""
    rows = sorted(site.practice.appointments.values(), key=lambda a: a.start_ms)
    now_ms = site.clock.sandbox.now_ms()
    return [a.id for a in rows if a.start_ms > now_ms and a.status in OPEN_STATUSES][:count]


async def test_what_a_sweep_found_wrong_is_counted_by_the_webhook_that_should_have_told(site: SyncSite) -> None:
    await site.sync()
    site.clock.advance(minutes=20)
    site.sandbox.act_unheard("book")
    site.clock.advance(minutes=20)
    await site.sync(SyncType.AUTOMATED_SWEEP)
    labels = {"kind": "appointment", "expected_event": "AppointmentCreated"}
    assert site.spine.count("eventsync_drift_found_total", **labels) == 1
