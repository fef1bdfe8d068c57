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

from contracts.answers import Answers, PostAnswers
from contracts.fuzzed import any_json, api_answers, as_json, headers, readable_bodies, webhook_bodies, webhook_samples
from eventsync.domain.changes import Absence, Change, Delete, EntityRef, Refetch, Upsert, Version
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.deliveries import (
    Accepted,
    Action,
    Deferred,
    Failed,
    Halted,
    ItemId,
    OutboundItem,
    Refused,
)
from eventsync.domain.errors import EventsyncError, Misconfigured, Rejected, Transient
from eventsync.domain.records import Appointment, content_hash
from eventsync.domain.webhooks import WebhookContext
from eventsync.vendorkit.http import PostAnswer
from eventsync.vendorkit.registry import RegistryVendor
from eventsync.vendorkit.vendor import RecordVendor, Vendor
from eventsync.vendors import load_vendors, record_vendors, registry_vendors

EXAMPLES = 2_000 if os.environ.get("EVENTSYNC_PROVE") else 300
VENDORS = load_vendors()
RECORD_VENDORS = record_vendors(VENDORS)
REGISTRY_VENDORS = registry_vendors(VENDORS)
CONNECTION_ID = ConnectionId(UUID(int=1))
CONTEXT = WebhookContext(CONNECTION_ID)

each_vendor = pytest.mark.parametrize("vendor", VENDORS.values(), ids=VENDORS)
each_record_vendor = pytest.mark.parametrize("vendor", RECORD_VENDORS.values(), ids=RECORD_VENDORS)
each_registry_vendor = pytest.mark.parametrize("vendor", REGISTRY_VENDORS.values(), ids=REGISTRY_VENDORS)


def connection_to(vendor: Vendor) -> Connection:
    return Connection(
        CONNECTION_ID, 1, OrganizationId(UUID(int=2)), vendor.name, "http://vendor.example.test", "invented-test-key"
    )


def subjects(vendor: RecordVendor) -> list[EntityRef]:
    """Every record that the vendor's samples speak of."""
    readings = [vendor.read_webhook(orjson.dumps(sample), {}, CONTEXT) for sample in webhook_samples(vendor)]
    return sorted({change.entity for reading in readings for change in reading.changes})


def is_storable(text: str) -> bool:
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text


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
    vendor: Vendor, data: st.DataObject, sent: tuple[tuple[str, str], ...]
) -> None:
    body = data.draw(readable_bodies(vendor) | readable_bodies(vendor) | webhook_bodies(vendor))
    try:
        reading = vendor.read_webhook(body, dict(sent), CONTEXT)
    except Rejected as error:
        assert error.reason.isidentifier()  # noqa: PT017  # either way is right; the other one is below
        return
    assert 0 < len(reading.event_type) <= 100
    assert is_storable(reading.event_type)
    assert not any(isinstance(change, Absence) for change in reading.changes)
    check_storable(reading.changes)


@each_record_vendor
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_answer_to_a_read_is_understood_or_fails_as_declared(vendor: RecordVendor, data: st.DataObject) -> None:
    entity = data.draw(st.sampled_from(subjects(vendor)))
    answer = data.draw(api_answers(vendor) | any_json)
    if isinstance(answer, dict) and data.draw(st.booleans()):
        answer = {**answer, "Id": entity.external_id}
    client = vendor.client(connection_to(vendor), Answers([as_json(answer)]))
    try:
        changes = asyncio.run(client.refetch(entity, sequence=1, read_began_ms=1_790_000_000_000))
    except EventsyncError:
        return
    assert changes[0].entity == entity
    check_storable(changes)


def post_answers(vendor: Vendor) -> st.SearchStrategy[PostAnswer]:
    """Whatever a server may answer to a POST: any status, any body, whole or cut."""
    said = st.one_of(api_answers(vendor), any_json).map(as_json)
    bodies = st.one_of(
        said, said, st.binary(max_size=200), st.text(max_size=50).map(lambda text: b"<p>" + text.encode())
    )
    statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 408, 409, 422, 429, 500, 503])
    return st.builds(
        PostAnswer,
        status=statuses | st.integers(100, 999),
        body=bodies | said.map(lambda body: body + b" invented-test-key"),
        is_whole=st.sampled_from([True, True, True, False]),
        retry_after_s=st.none() | st.floats(1, 86_400),
    )


@each_registry_vendor
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_answer_to_a_delivery_has_a_meaning_that_can_be_stored(vendor: RegistryVendor, data: st.DataObject) -> None:
    sent, payload = data.draw(post_answers(vendor)), data.draw(st.dictionaries(st.text(max_size=8), any_json))
    item = OutboundItem(ItemId(UUID(int=7)), "practice", "plenura_0", Action.UPDATE, payload, UUID(int=8))
    answer = asyncio.run(vendor.registry(connection_to(vendor), PostAnswers(sent)).deliver(item))
    assert answer.http_status == sent.status
    match answer:
        case Accepted(remote_org_id):
            assert 200 <= sent.status < 300 or sent.status == 409
            assert remote_org_id is None or (0 < len(remote_org_id) <= 200 and is_storable(remote_org_id))
        case Failed() | Deferred():
            assert answer.retry_after_s is None or answer.retry_after_s == sent.retry_after_s
        case Refused() | Halted():
            assert 300 <= sent.status < 500
    if not isinstance(answer, Accepted):
        assert 0 < len(answer.message) <= 600
        assert is_storable(answer.message)
        assert "invented-test-key" not in answer.message


@each_registry_vendor
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_answer_to_a_check_proves_the_credentials_or_fails_as_declared(
    vendor: RegistryVendor, data: st.DataObject
) -> None:
    sent = data.draw(post_answers(vendor))
    registry = vendor.registry(connection_to(vendor), PostAnswers(sent))
    try:
        asyncio.run(registry.check_credentials())
    except (Misconfigured, Transient) as error:
        assert "invented-test-key" not in str(error)  # noqa: PT017  # either way is right; the other one is below
        return
    assert sent.status in (400, 422)
