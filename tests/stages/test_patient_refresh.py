"""A refresh of one patient costs three calls at most, writes what is true of this patient, and concludes no absence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.providers import Providers
from eventsync.sandbox.script import ApiAnswer, ScriptedCall
from stages.refresh_site import EMAIL, RefreshSite, actions, open_desk

LISTS = "/appointments"


@pytest.fixture
async def desk(pool: Database, keyring: Keyring, database: asyncpg.Connection) -> AsyncIterator[RefreshSite]:
    """A practice whose copy is whole, with a client of two appointments, an hour ago."""
    async with open_desk(pool, keyring, database) as desk:
        yield desk


async def test_a_refresh_brings_what_no_webhook_told_and_writes_nothing_else(desk: RefreshSite) -> None:
    earlier, later = sorted(await desk.held())
    desk.act("cancel", id=earlier, reason="illness")
    booked = desk.book(days=3)
    desk.site.clock.advance(minutes=1)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED, run
    counts = run.counts
    assert (counts.appointments_new, counts.appointments_updated, counts.appointments_unchanged) == (1, 1, 1)
    assert (counts.patients_processed, counts.patients_failed) == (1, 0)
    assert actions(run) == {
        desk.record_id(earlier): "updated",
        desk.record_id(booked): "created",
        desk.record_id(later): "unchanged",
    }
    assert (await desk.appointment(earlier))["status"] == "cancelled"
    assert run.error_message is None
    assert run.metadata["errors"] == []


async def test_a_list_that_lacks_nothing_is_not_asked_for_deletions(desk: RefreshSite) -> None:
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert desk.site.calls == run.metadata["intakeq_api_calls"] == 2
    assert run.metadata["warnings"] == []
    assert await desk.suspects() == set()
    assert await desk.database.fetchval("SELECT count(*) FROM api_calls WHERE purpose = 'manual'") == 2


async def test_a_deletion_is_told_by_the_third_call_and_there_is_no_fourth(desk: RefreshSite) -> None:
    gone, kept = sorted(await desk.held())
    desk.act("delete", id=gone)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED, run
    assert desk.site.calls == run.metadata["intakeq_api_calls"] == 3
    assert await desk.held() == {kept}
    assert actions(run) == {desk.record_id(gone): "updated", desk.record_id(kept): "unchanged"}
    assert await desk.suspects() == set()


async def test_what_came_and_went_unseen_is_told_to_nobody(desk: RefreshSite) -> None:
    gone, kept = sorted(await desk.held())
    unseen = desk.book(days=5)
    desk.act("delete", id=unseen)
    desk.act("delete", id=gone)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert actions(run) == {desk.record_id(gone): "updated", desk.record_id(kept): "unchanged"}
    assert (run.counts.appointments_new, run.counts.appointments_updated) == (0, 1)


async def test_another_client_with_the_same_email_is_left_alone(desk: RefreshSite) -> None:
    partner = desk.add_client(email=EMAIL, last_name="Test Client Two")
    theirs = desk.book(client_id=partner)
    mine = desk.book()
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert await desk.appointment(theirs) is None
    assert desk.record_id(theirs) not in actions(run)
    assert actions(run)[desk.record_id(mine)] == "created"


async def test_appointments_under_a_former_email_are_found_by_it(desk: RefreshSite) -> None:
    before = await desk.held()
    silent = min(before)
    desk.practice.put_appointment(replace(desk.held_by_vendor(silent), price=1.5, modified_ms=desk.now_ms()))
    desk.act("edit_client", client_id=int(desk.client_id), email="new@example.test")
    booked = desk.book(days=5)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED, run
    assert desk.site.calls == 3
    assert await desk.held() == before | {booked}
    assert actions(run)[desk.record_id(silent)] == "updated"
    assert run.metadata["warnings"] == []
    assert await desk.suspects() == set()
    assert (
        await desk.database.fetchval("SELECT email FROM patients WHERE id = $1", desk.patient_id) == "new@example.test"
    )


async def test_an_email_that_has_just_changed_lets_nothing_be_suspected(desk: RefreshSite) -> None:
    hidden, _ = sorted(await desk.held())
    desk.practice.put_appointment(replace(desk.held_by_vendor(hidden), client_email="even.older@example.test"))
    desk.act("edit_client", client_id=int(desk.client_id), email="new@example.test")
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.metadata["warnings"] == ["1 appointment(s) of the copy were not listed: a later sweep looks again."]
    assert await desk.suspects() == set()


async def test_what_changed_shortly_before_the_read_is_not_suspected_for_missing_in_it(desk: RefreshSite) -> None:
    before = await desk.held()
    start_ms = int((desk.site.clock() + timedelta(days=9)).timestamp() * 1000)
    await desk.site.hear(desk.site.sandbox.act("book", client_id=int(desk.client_id), start_ms=start_ms))
    desk.site.clock.advance(minutes=4)
    desk.site.sandbox.script.add(ScriptedCall(route=LISTS, times=None, answer=ApiAnswer.EMPTY_LIST))
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert len(await desk.held()) == 3
    assert await desk.suspects() == before


async def test_an_email_that_changed_long_ago_hides_appointments_but_deletes_none(desk: RefreshSite) -> None:
    before = await desk.held()
    desk.act("edit_client", client_id=int(desk.client_id), email="new@example.test")
    desk.site.clock.advance(minutes=10)
    await desk.refresh()
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert desk.site.calls == 6
    assert await desk.held() == before
    assert await desk.suspects() == before
    assert "2 appointment(s) of the copy were not listed: a later sweep looks again." in run.metadata["warnings"]
    desk.act("edit_client", client_id=int(desk.client_id), email=EMAIL)
    desk.site.clock.advance(minutes=10)
    await desk.refresh()
    assert await desk.suspects() == set(), "what is seen again waits for no second look"


async def test_a_reschedule_out_of_the_window_is_no_deletion(desk: RefreshSite) -> None:
    moved, kept = sorted(await desk.held())
    far = desk.site.clock() + timedelta(days=200)
    desk.act("reschedule", id=moved, start_ms=int(far.timestamp() * 1000))
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert await desk.held() == {moved, kept}
    assert await desk.suspects() == {moved}


async def test_a_client_without_a_name_is_found_by_its_email(desk: RefreshSite) -> None:
    desk.client_id = desk.add_client(email="nameless@example.test", nameless=True)
    await desk.site.sync()
    booked = desk.book()
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert actions(run) == {desk.record_id(booked): "created"}


async def test_a_client_without_an_email_is_asked_for_by_name_which_proves_no_absence(desk: RefreshSite) -> None:
    desk.client_id = desk.add_client(first_name="Sample", last_name="Nowhere")
    desk.practice.put_client(replace(desk.client_at_vendor(desk.client_id), email=None))
    held, hidden = desk.book(days=3), desk.book(days=4)
    await desk.site.sync()
    renamed = replace(desk.held_by_vendor(hidden), client_name="Before Marriage", modified_ms=desk.now_ms())
    desk.practice.put_appointment(renamed)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED, run
    assert actions(run) == {desk.record_id(held): "unchanged"}
    assert await desk.suspects() == set()


async def test_a_client_with_neither_name_nor_email_cannot_be_asked_for(desk: RefreshSite) -> None:
    desk.client_id = desk.add_client(nameless=True)
    desk.practice.put_client(replace(desk.client_at_vendor(desk.client_id), email=None))
    await desk.site.sync()
    desk.site.sandbox.stats.api_calls.clear()
    run = await desk.refresh()
    assert (run.status, run.error_message) == (RunStatus.FAILED, "Patient has no email")
    assert run.counts.patients_failed == 1
    assert desk.site.calls == run.metadata["intakeq_api_calls"] == 1


async def test_a_list_read_before_a_webhook_never_overwrites_it(desk: RefreshSite) -> None:
    cancelled, _ = sorted(await desk.held())
    site = desk.site

    async def webhooks_arrive() -> None:
        site.clock.advance(seconds=2)
        await site.hear(site.sandbox.act("cancel", id=cancelled))
        start_ms = int((site.clock() + timedelta(days=9)).timestamp() * 1000)
        await site.hear(site.sandbox.act("book", client_id=int(desk.client_id), start_ms=start_ms))

    site.sandbox.script.add(ScriptedCall(route=LISTS, after=webhooks_arrive))
    run = await desk.refresh()
    assert (await desk.appointment(cancelled))["status"] == "cancelled"
    assert len(await desk.held()) == 3, "and what was booked meanwhile stands"
    assert await desk.suspects() == set(), "nor is it suspected for missing in the older list"
    assert run.counts.appointments_updated == 0


async def test_only_the_owner_and_who_follows_the_patient_today_may_ask(desk: RefreshSite) -> None:
    follower = await desk.partner()
    former = await desk.partner(until=desk.site.clock() - timedelta(days=2))
    for organization_id, status in (
        (follower, RunStatus.COMPLETED),
        (former, RunStatus.FAILED),
        (await desk.stranger(), RunStatus.FAILED),
    ):
        assert (await desk.refresh(organization_id=organization_id)).status is status


async def test_a_patient_of_another_owner_is_not_read_over_this_connection(desk: RefreshSite) -> None:
    stranger = await desk.stranger()
    patient_id = uuid4()
    await desk.database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, email, origin)"
        " VALUES ($1, $2, 'Test', 'Other', $3, 'local')",
        *(patient_id, stranger, EMAIL),
    )
    for organization_id in (stranger, desk.site.owner_id):
        run = await desk.refresh(patient_id, organization_id)
        assert run.status is RunStatus.FAILED
    assert desk.site.calls == 0


async def test_a_client_who_is_gone_is_absent_and_the_appointments_are_read_all_the_same(desk: RefreshSite) -> None:
    desk.act("delete_client", client_id=int(desk.client_id))
    cancelled, _ = sorted(await desk.held())
    desk.act("cancel", id=cancelled)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert "The client is no longer there at PracticeQ." in run.metadata["warnings"]
    assert (await desk.appointment(cancelled))["status"] == "cancelled"
    gone = "SELECT deleted_at IS NOT NULL FROM patient_identities WHERE external_id = $1"
    assert await desk.database.fetchval(gone, desk.client_id)


async def test_a_full_first_page_is_told_of_and_proves_no_absence(desk: RefreshSite) -> None:
    hidden = min(await desk.held())  # the rest of the list begins before the hundred that are booked now
    first = desk.site.clock() + timedelta(days=20)
    start_ms = int(first.timestamp() * 1000)
    desk.act("book_many", count=100, client_id=int(desk.client_id), start_ms=start_ms, announce=False)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert desk.site.calls == 3
    assert run.counts.appointments_new == 100
    assert any("more appointments" in warning for warning in run.metadata["warnings"])
    assert hidden in await desk.held()
    assert await desk.suspects() == set()


async def test_days_are_the_ones_that_were_asked_for(desk: RefreshSite) -> None:
    near, far = desk.book(days=2), desk.book(days=30)
    desk.site.clock.advance(minutes=10)
    today = desk.site.clock().date()
    span: dict[str, Any] = {"from": today.isoformat(), "to": (today + timedelta(days=10)).isoformat()}
    run = await desk.refresh(**span)
    assert run.metadata["date_range"] == {"startDate": span["from"], "endDate": span["to"]}
    assert await desk.appointment(near) is not None
    assert await desk.appointment(far) is None
    assert await desk.suspects() == set(), "what lies beyond the days was not missed"


async def test_a_practitioner_without_a_name_is_warned_of_until_mapped(desk: RefreshSite) -> None:
    await desk.database.execute("DELETE FROM provider_intakeq_settings")
    run = await desk.refresh()
    ids = {desk.held_by_vendor(appointment_id).practitioner_id for appointment_id in await desk.held()}
    wanted = [f"Unknown practitioner {one}: map it with `eventsync providers map`" for one in sorted(ids)]
    assert run.metadata["warnings"] == wanted
    providers, site = Providers(desk.site.pool), desk.site
    for practitioner_id in ids:
        await providers.map(site.connection.id, practitioner_id, "Pat Test", None, site.clock(), None)
    assert (await desk.refresh()).metadata["warnings"] == []


async def test_a_refresh_that_finds_the_copy_wrong_says_so_in_the_drift_report(desk: RefreshSite) -> None:
    cancelled, _ = sorted(await desk.held())
    desk.act("cancel", id=cancelled)
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    found = await desk.database.fetch("SELECT external_id FROM drift_findings WHERE run_id = $1", run.id)
    assert [row["external_id"] for row in found] == [cancelled]
