"""Whatever a page of IntakeQ's lists holds: its rows are understood or set apart one by one, or the page fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.answers import Answers
from contracts.fuzzed import any_json, api_answers, as_json
from eventsync.domain.connections import Connection, OrganizationId
from eventsync.domain.errors import EventsyncError
from eventsync.vendorkit.listing import Page
from eventsync.vendors.intakeq import VENDOR
from eventsync.vendors.intakeq.client import IntakeQClient
from unit.intakeq_samples import CONTEXT

READ_BEGAN_MS = 1_790_000_000_000
LISTS: dict[str, Callable[[IntakeQClient], AsyncIterator[Page[Any]]]] = {
    "appointments": lambda client: client.appointments(read_began_ms=READ_BEGAN_MS),
    "clients": lambda client: client.clients(read_began_ms=READ_BEGAN_MS),
    "invoices": lambda client: client.invoices(read_began_ms=READ_BEGAN_MS),
    "intakes": lambda client: client.intakes(),
    "notes": lambda client: client.notes(),
}
a_row = api_answers(VENDOR) | any_json
answers = st.lists(a_row, max_size=4) | a_row


def client_with(answer: Any) -> IntakeQClient:
    organization_id = OrganizationId(UUID(int=2))
    connection = Connection(
        CONTEXT.connection_id, 1, organization_id, VENDOR.name, "http://vendor.example.test", "test-key"
    )
    return IntakeQClient(connection, Answers([as_json(answer)] * 2))


async def walked(pages: AsyncIterator[Page[Any]]) -> list[Page[Any]]:
    return [page async for page in pages]


@pytest.mark.parametrize("name", LISTS)
@given(answer=answers)
def test_any_page_of_a_list_gives_rows_and_reasons_or_fails_as_declared(name: str, answer: Any) -> None:
    try:
        pages = asyncio.run(walked(LISTS[name](client_with(answer))))
    except EventsyncError:
        return
    assert isinstance(answer, list)
    for page in pages:
        assert len(page.items) + len(page.rejected) >= (1 if answer else 0)
        assert all(row.reason.isidentifier() for row in page.rejected)


@given(answer=answers)
def test_any_list_of_practitioners_is_understood_or_fails_as_declared(answer: Any) -> None:
    try:
        found = asyncio.run(client_with(answer).practitioners())
    except EventsyncError:
        return
    assert len(found) == len(answer)
