"""The lists of a whole pretend practice, compared with what the practice itself knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import aiohttp
import pytest

from eventsync.domain.changes import Delete, RecordChange, Source, Upsert
from eventsync.domain.connections import Connection, OrganizationId
from eventsync.domain.fields import Fields
from eventsync.domain.records import RecordKind
from eventsync.sandbox import QuotaLimits, RunningSandbox, SandboxOptions, serve
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.listing import Page
from eventsync.vendors.intakeq.client import IntakeQClient
from eventsync.vendors.intakeq.documents import invoice_change
from eventsync.vendors.intakeq.lists import ListFilter
from eventsync.vendors.intakeq.mapping import Reading, appointment_changes, patient_change
from unit.intakeq_samples import CONTEXT
from unit.vendor_server import NotingBudget

START_MS = 1_790_000_000_000  # September 2026
TODAY = datetime.fromtimestamp(START_MS / 1000, UTC).date()
READING = Reading(CONTEXT.connection_id, Source.API, START_MS)
APPOINTMENTS, CLIENTS = 230, 120

T = TypeVar("T")
Practice = tuple[RunningSandbox, IntakeQClient]


@pytest.fixture
async def practice() -> AsyncIterator[Practice]:
    options = SandboxOptions(
        clients=CLIENTS,
        appointments=APPOINTMENTS,
        start_ms=START_MS,
        float_share=0.5,
        quota=QuotaLimits(per_minute=None, per_day=None),
    )
    async with serve(options) as running, aiohttp.ClientSession() as session:
        connection = Connection(
            CONTEXT.connection_id,
            1,
            OrganizationId(CONTEXT.connection_id),
            "intakeq",
            running.api_url,
            running.api_key,
        )
        yield running, IntakeQClient(connection, VendorHttp(session, NotingBudget()))


async def collect(walk: AsyncIterator[Page[T]]) -> list[T]:
    found = [page async for page in walk]
    assert not any(page.rejected for page in found)
    return [item for page in found for item in page.items]


def truth(practice: Practice, kind: RecordKind) -> list[RecordChange]:
    """Map the practice's own records, which are in the API's single form."""
    facts = practice[0].sandbox.truth("client" if kind is RecordKind.PATIENT else kind.value)
    rows = [Fields("Truth", fact.data) for fact in facts if not fact.deleted]
    match kind:
        case RecordKind.APPOINTMENT:
            return [appointment_changes(READING, row)[0] for row in rows]
        case RecordKind.PATIENT:
            return [patient_change(READING, row) for row in rows]
        case _:
            return [invoice_change(READING, row) for row in rows]


def versions(changes: list[RecordChange]) -> dict[str, object]:
    return {
        change.entity.external_id: (change.version, change.content)
        for change in changes
        if isinstance(change, Upsert | Delete)
    }


async def test_the_list_of_appointments_is_the_practices_truth_in_few_calls(practice: Practice) -> None:
    listed = await collect(practice[1].appointments(read_began_ms=START_MS))
    own = [change for change in listed if change.entity.kind is RecordKind.APPOINTMENT]
    assert len(own) == APPOINTMENTS
    assert versions(own) == versions(truth(practice, RecordKind.APPOINTMENT))


async def test_the_list_of_clients_is_the_practices_truth(practice: Practice) -> None:
    listed = await collect(practice[1].clients(read_began_ms=START_MS))
    assert len(listed) == CLIENTS
    assert versions(listed) == versions(truth(practice, RecordKind.PATIENT))


async def test_invoices_intakes_and_notes_are_all_listed(practice: Practice) -> None:
    running, client = practice
    for action in ("issue_invoice", "submit_intake", "send_intake", "lock_note"):
        running.sandbox.act(action)
    invoices = await collect(client.invoices(read_began_ms=START_MS))
    assert versions(invoices) == versions(truth(practice, RecordKind.INVOICE))
    for walk, kind in ((client.intakes(), RecordKind.INTAKE), (client.notes(), RecordKind.NOTE)):
        summaries = await collect(walk)
        ids = {fact.data["Id"] for fact in running.sandbox.truth(kind.value)}
        assert {summary.entity.external_id for summary in summaries} == ids
        assert ids


async def test_a_silent_edit_is_among_what_changed_since_yesterday(practice: Practice) -> None:
    running, client = practice
    edited = running.sandbox.act("edit").record_id
    since = ListFilter(updated_since=TODAY - timedelta(days=1))
    listed = await collect(client.appointments(since, read_began_ms=START_MS))
    assert edited in versions(listed)
    assert len(versions(listed)) < APPOINTMENTS


async def test_deleted_appointments_are_listed_as_deletes(practice: Practice) -> None:
    running, client = practice
    deleted = running.sandbox.act("delete").record_id
    listed = await collect(client.appointments(ListFilter(deleted_only=True), read_began_ms=START_MS))
    assert [change.entity.external_id for change in listed if isinstance(change, Delete)] == [deleted]
    remaining = await collect(client.appointments(read_began_ms=START_MS))
    assert deleted not in versions(remaining)


async def test_the_practitioners_are_listed(practice: Practice) -> None:
    people = await practice[1].practitioners()
    assert len(people) == 5
    assert all(person.external_id and person.name and person.email for person in people)
