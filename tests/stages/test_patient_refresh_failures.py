"""What goes wrong in a patient's refresh ends in its run's row with a word, and costs three calls at most."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLost
from eventsync.sandbox.script import ApiAnswer, ScriptedCall
from stages.refresh_site import RefreshSite, actions, open_desk

LISTS = "/appointments"


@pytest.fixture
async def desk(pool: Database, keyring: Keyring, database: asyncpg.Connection) -> AsyncIterator[RefreshSite]:
    """A practice whose copy is whole, with a client of two appointments, an hour ago."""
    async with open_desk(pool, keyring, database) as desk:
        yield desk


async def test_a_run_that_was_lost_writes_nothing_more(desk: RefreshSite) -> None:
    cancelled, _ = sorted(await desk.held())
    desk.act("cancel", id=cancelled)
    lease = await desk.lease()

    async def another_worker_takes_it() -> None:
        await desk.database.execute("UPDATE sync_logs SET worker_id = $2 WHERE id = $1", lease.run.id, uuid4())

    desk.site.sandbox.script.add(ScriptedCall(route=LISTS, after=another_worker_takes_it))
    desk.site.clock.advance(minutes=10)
    with pytest.raises(RunLost):
        await desk.refresher().run(lease)
    assert (await desk.appointment(cancelled))["status"] == "confirmed"
    assert desk.site.calls == 2


async def test_followers_see_when_the_patient_was_last_synced_and_only_after_a_success(desk: RefreshSite) -> None:
    await desk.partner()
    await desk.database.execute("UPDATE patient_organization_affiliations SET last_practiceq_sync_at = NULL")
    synced_at = "SELECT last_practiceq_sync_at FROM patient_organization_affiliations"
    desk.site.sandbox.script.add(ScriptedCall(route=LISTS, answer=ApiAnswer.STATUS, status=400))
    assert (await desk.refresh()).status is RunStatus.FAILED
    assert await desk.database.fetchval(synced_at) is None
    began_at = desk.site.clock()
    await desk.refresh()
    assert await desk.database.fetchval(synced_at) == began_at


async def test_whose_consent_has_ended_is_told_of_no_sync(desk: RefreshSite) -> None:
    await desk.partner()
    await desk.database.execute(
        "UPDATE patient_organization_affiliations SET last_practiceq_sync_at = NULL, consent_expires_on = start_date"
    )
    assert (await desk.refresh()).status is RunStatus.COMPLETED
    assert await desk.database.fetchval("SELECT last_practiceq_sync_at FROM patient_organization_affiliations") is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ScriptedCall(route="*", answer=ApiAnswer.HTML, status=200), "maintenance"),
        (ScriptedCall(route="*", answer=ApiAnswer.STATUS, status=401), "api_key"),
        (ScriptedCall(route="*", times=None, answer=ApiAnswer.STATUS, status=500), "500"),
        (ScriptedCall(route="*", answer=ApiAnswer.STATUS, status=429, retry_after_s=600), "Try again in about 10 min"),
        (ScriptedCall(route="*", times=None, answer=ApiAnswer.CUT_MIDWAY), "could not be reached"),
    ],
)
async def test_a_vendor_that_cannot_be_read_ends_the_refresh_with_a_word(
    desk: RefreshSite, call: ScriptedCall, words: str
) -> None:
    before = await desk.database.fetch("SELECT * FROM appointments ORDER BY id")
    desk.site.sandbox.script.add(call)
    run = await desk.refresh()
    assert run.status is RunStatus.FAILED
    assert (run.counts.patients_processed, run.counts.patients_failed) == (0, 1)
    assert run.error_message is not None
    assert run.error_message.startswith("Failed to fetch from PracticeQ: ")
    assert words in run.error_message
    assert run.metadata["errors"] == [{"patientId": str(desk.patient_id), "error": run.error_message}]
    assert desk.site.calls == run.metadata["intakeq_api_calls"] <= 3
    assert run.metadata["rate_limit_hit"] is (call.status == 429)
    assert await desk.database.fetch("SELECT * FROM appointments ORDER BY id") == before


async def test_a_spent_budget_says_when_there_is_room_again(desk: RefreshSite) -> None:
    lease = await desk.lease()
    end = await desk.refresher(calls_per_minute=1).run(lease)
    assert end.status is RunStatus.FAILED
    assert end.error_message is not None
    assert "`eventsync budget`" in end.error_message
    assert "Try again in about" in end.error_message
    assert desk.site.calls == 1


async def test_tries_that_fail_count_among_the_three_calls(desk: RefreshSite) -> None:
    gone, _ = sorted(await desk.held())
    desk.act("delete", id=gone)
    desk.site.clock.advance(minutes=10)
    desk.site.sandbox.script.add(ScriptedCall(route="/clients", answer=ApiAnswer.STATUS, status=500))
    run = await desk.refresh()
    assert desk.site.calls == 3
    assert run.status is RunStatus.COMPLETED
    assert "Deletions were not asked for: a refresh makes 3 calls." in run.metadata["warnings"]
    assert gone in await desk.held()
    assert await desk.suspects() == {gone}


async def test_deletions_that_cannot_be_read_spoil_the_refresh_only_in_part(desk: RefreshSite) -> None:
    gone, _ = sorted(await desk.held())
    desk.act("delete", id=gone)
    desk.site.clock.advance(minutes=10)
    desk.site.sandbox.script.add(ScriptedCall(route=LISTS, call=2, answer=ApiAnswer.HTML))
    run = await desk.refresh()
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert run.counts.patients_processed == 1
    assert run.error_message is not None
    assert run.metadata["stopped_because"] == run.error_message
    assert gone in await desk.held()


async def test_a_row_that_cannot_be_understood_stops_no_other(desk: RefreshSite) -> None:
    spoiled, changed = sorted(await desk.held())
    desk.act("cancel", id=changed)
    desk.practice.put_appointment(replace(desk.held_by_vendor(spoiled), modified_ms=-1))
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert (run.counts.appointments_updated, run.counts.appointments_errors) == (1, 1)
    assert actions(run) == {desk.record_id(changed): "updated", desk.record_id(spoiled): "error"}
    (entry,) = [entry for entry in run.metadata["appointments"] if entry["syncAction"] == "error"]
    assert entry["errorMessage"] == "It could not be understood (date_out_of_range)"
    assert desk.site.calls == 2, "it was listed: nobody asks whether it was deleted"
    assert await desk.suspects() == set()


async def test_a_row_that_postgresql_refuses_stops_no_other(desk: RefreshSite) -> None:
    refused, changed = sorted(await desk.held())
    await desk.database.execute("ALTER TABLE appointments ADD CHECK (price IS DISTINCT FROM 12.34)")
    for appointment_id in (refused, changed):
        price = 12.34 if appointment_id == refused else 56.78
        edited = replace(desk.held_by_vendor(appointment_id), price=price, modified_ms=desk.now_ms())
        desk.practice.put_appointment(edited)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert actions(run) == {desk.record_id(changed): "updated", desk.record_id(refused): "error"}
    assert run.counts.appointments_errors == 1


@pytest.mark.parametrize("span", [{"from": "tomorrow"}, {"from": 5}, {"to": "0001-01-01"}, {"to": "9999-12-31"}])
async def test_days_that_are_none_end_the_refresh_before_any_call(desk: RefreshSite, span: dict[str, Any]) -> None:
    run = await desk.refresh(**span)
    assert run.status is RunStatus.FAILED
    assert desk.site.calls == 0
