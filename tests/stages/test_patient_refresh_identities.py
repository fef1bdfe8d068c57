"""Whom a refresh reads where a patient has no client yet, or several."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.linking import PatientLinks
from stages.refresh_site import RefreshSite, actions
from stages.sync_site import open_site

FRESH = "fresh@example.test"


@pytest.fixture
async def desk(pool: Database, keyring: Keyring, database: asyncpg.Connection) -> AsyncIterator[RefreshSite]:
    """A practice whose copy is whole; nobody in it is to be refreshed yet."""
    async with open_site(pool, keyring, clients=3, appointments=10) as site:
        await site.sync()
        site.clock.advance(hours=1)
        site.sandbox.stats.api_calls.clear()
        yield RefreshSite(site, database)


def add_unheard_client(desk: RefreshSite, email: str = FRESH) -> str:
    client_id = desk.add_client(email=email)
    desk.site.clock.advance(minutes=10)
    return client_id


async def give_to(desk: RefreshSite, patient_id: object, *client_ids: str) -> None:
    """Let these clients belong to one patient, as links do."""
    statement = "UPDATE patient_identities SET patient_id = $1 WHERE external_id = ANY($2)"
    await desk.database.execute(statement, patient_id, list(client_ids))


async def test_a_patient_without_a_client_is_found_by_the_email(desk: RefreshSite) -> None:
    desk.client_id = add_unheard_client(desk, FRESH.title())
    booked = desk.book()
    desk.site.clock.advance(minutes=10)
    patient_id = await desk.local_patient(f" {FRESH}")
    run = await desk.refresh(patient_id)
    assert run.status is RunStatus.COMPLETED, run
    assert desk.site.calls == 2
    assert actions(run) == {desk.record_id(booked): "created"}
    await PatientLinks(desk.site.pool).link_by_email(desk.site.clock())
    assert (await desk.appointment(booked))["patient_id"] == patient_id


async def test_a_patient_whom_the_practice_does_not_know_is_no_failure(desk: RefreshSite) -> None:
    add_unheard_client(desk, f"not.{FRESH}")
    run = await desk.refresh(await desk.local_patient(FRESH))
    assert run.status is RunStatus.COMPLETED
    assert run.counts.patients_processed == 1
    assert run.metadata["warnings"] == ["No client at PracticeQ has this patient's e-mail."]
    assert desk.site.calls == 1


@pytest.mark.parametrize("email", [None, "  "])
async def test_a_patient_with_neither_client_nor_email_fails_without_a_call(
    desk: RefreshSite, email: str | None
) -> None:
    run = await desk.refresh(await desk.local_patient(email))
    assert (run.status, run.error_message) == (RunStatus.FAILED, "Patient has no email")
    assert run.counts.patients_failed == 1
    assert desk.site.calls == 0


async def test_an_email_of_several_clients_is_nobodys(desk: RefreshSite) -> None:
    desk.client_id = add_unheard_client(desk)
    add_unheard_client(desk)
    booked = desk.book()
    run = await desk.refresh(await desk.local_patient(FRESH))
    assert run.status is RunStatus.FAILED
    assert run.error_message is not None
    assert "intakeq_client_id" in run.error_message
    assert run.metadata["intakeq_api_calls"] == desk.site.calls == 1
    assert await desk.appointment(booked) is None


async def test_an_email_of_several_patients_is_nobodys(desk: RefreshSite) -> None:
    add_unheard_client(desk)
    await desk.local_patient(FRESH.upper())
    run = await desk.refresh(await desk.local_patient(FRESH))
    assert run.status is RunStatus.FAILED
    assert desk.site.calls == 0


async def test_a_client_whom_a_person_has_ruled_out_is_not_taken_again(desk: RefreshSite) -> None:
    desk.client_id = add_unheard_client(desk)
    patient_id = await desk.local_patient(FRESH)
    await desk.site.sync()
    links = PatientLinks(desk.site.pool)
    await links.link_by_email(desk.site.clock())
    (link,) = await links.links(desk.site.owner_id)
    assert await links.undo(link.id, desk.site.owner_id, desk.site.clock())
    booked = desk.book()
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh(patient_id)
    assert await desk.appointment(booked) is None
    assert run.metadata["warnings"] == ["No client at PracticeQ has this patient's e-mail."]


async def test_a_linked_clients_own_patient_stands_for_the_patient_it_is_linked_to(desk: RefreshSite) -> None:
    desk.client_id = add_unheard_client(desk)
    await desk.local_patient(FRESH)
    await desk.site.sync()
    await PatientLinks(desk.site.pool).link_by_email(desk.site.clock())
    booked = desk.book()
    desk.site.clock.advance(minutes=10)
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert actions(run) == {desk.record_id(booked): "created"}


async def test_clients_of_one_patient_who_share_an_email_are_read_by_one_list(desk: RefreshSite) -> None:
    first, second = add_unheard_client(desk), add_unheard_client(desk)
    await desk.site.sync()
    desk.client_id = first
    await give_to(desk, desk.patient_id, first, second)
    booked = {desk.record_id(desk.book(client_id=client_id)) for client_id in (first, second)}
    desk.site.clock.advance(minutes=10)
    desk.site.sandbox.stats.api_calls.clear()
    run = await desk.refresh()
    assert run.status is RunStatus.COMPLETED
    assert actions(run) == dict.fromkeys(booked, "created")
    assert desk.site.calls == 3, "one list, and each client's own record"
    assert not any("were not read" in warning for warning in run.metadata["warnings"])


async def test_of_more_clients_than_calls_the_rest_is_named_as_left_out(desk: RefreshSite) -> None:
    clients = [add_unheard_client(desk, f"client.{number}.{FRESH}") for number in range(5)]
    await desk.site.sync()
    desk.client_id = clients[0]
    await give_to(desk, desk.patient_id, *clients)
    for client_id in clients:
        desk.book(client_id=client_id)
    desk.site.clock.advance(minutes=10)
    desk.site.sandbox.stats.api_calls.clear()
    run = await desk.refresh()
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert desk.site.calls == 3
    assert run.counts.appointments_new == 3
    left_out = [warning for warning in run.metadata["warnings"] if "were not read" in warning]
    assert any("appointments of 2 of the patient's 5 clients" in warning for warning in left_out), left_out
