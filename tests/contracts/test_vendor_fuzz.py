"""Whatever a vendor sends or answers: its adapter reads what can be stored, or says why not in a declared error."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.answers import Answers
from contracts.fuzzed import any_json, api_answers, as_json, headers, readable_bodies, webhook_bodies, webhook_samples
from eventsync.domain.changes import Absence, Change, Delete, EntityRef, Refetch, Upsert, Version
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.errors import EventsyncError, Rejected
from eventsync.domain.records import Appointment, content_hash
from eventsync.domain.webhooks import WebhookContext
from eventsync.vendorkit.vendor import RecordVendor
from eventsync.vendors import load_vendors, record_vendors

EXAMPLES = 2_000 if os.environ.get("EVENTSYNC_PROVE") else 300
VENDORS = record_vendors(load_vendors())
CONNECTION_ID = ConnectionId(UUID(int=1))
CONTEXT = WebhookContext(CONNECTION_ID)

each_vendor = pytest.mark.parametrize("vendor", VENDORS.values(), ids=VENDORS)


def subjects(vendor: RecordVendor) -> list[EntityRef]:
    """Every record that the vendor's samples speak of."""
    readings = [vendor.read_webhook(orjson.dumps(sample), {}, CONTEXT) for sample in webhook_samples(vendor)]
    return sorted({change.entity for reading in readings for change in reading.changes})


def check_storable(changes: Sequence[Change]) -> None:
    for change in changes:
        assert change.entity.connection_id == CONNECTION_ID
        assert 0 < len(change.entity.external_id) <= 200
        repr(change.entity).encode()
        assert "\\x00" not in repr(change.entity)
        if isinstance(change, Refetch | Absence):
            continue
        assert isinstance(change, Upsert | Delete)
        assert change.version.content_hash == content_hash(change.content)
        assert "\\x00" not in repr(change.content)
        repr(change.content).encode()
        assert Version.from_bytes(change.version.to_bytes()) == change.version
        if isinstance(change.content, Appointment):
            assert change.content.start_time <= change.content.end_time
            orjson.dumps(change.content.details)


@each_vendor
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), sent=headers)
def test_any_webhook_is_read_or_rejected_with_a_reason(
    vendor: RecordVendor, data: st.DataObject, sent: tuple[tuple[str, str], ...]
) -> None:
    body = data.draw(readable_bodies(vendor) | readable_bodies(vendor) | webhook_bodies(vendor))
    try:
        reading = vendor.read_webhook(body, dict(sent), CONTEXT)
    except Rejected as error:
        assert error.reason.isidentifier()  # noqa: PT017  # either way is right; the other one is below
        return
    assert not any(isinstance(change, Absence) for change in reading.changes)
    check_storable(reading.changes)


@each_vendor
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_answer_to_a_read_is_understood_or_fails_as_declared(vendor: RecordVendor, data: st.DataObject) -> None:
    entity = data.draw(st.sampled_from(subjects(vendor)))
    answer = data.draw(api_answers(vendor) | any_json)
    if isinstance(answer, dict) and data.draw(st.booleans()):
        answer = {**answer, "Id": entity.external_id}
    connection = Connection(
        CONNECTION_ID, 1, OrganizationId(UUID(int=2)), vendor.name, "http://vendor.example.test", "test-key"
    )
    client = vendor.client(connection, Answers([as_json(answer)]))
    try:
        changes = asyncio.run(client.refetch(entity, sequence=1, read_began_ms=1_790_000_000_000))
    except EventsyncError:
        return
    assert changes[0].entity == entity
    check_storable(changes)
