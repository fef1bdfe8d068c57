"""No body, however broken, may raise anything but Rejected, or give a change that cannot be stored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.changes import Delete, Refetch, Upsert, Version
from eventsync.domain.errors import Rejected
from eventsync.domain.records import Appointment, content_hash
from eventsync.domain.webhooks import WebhookReading
from eventsync.vendors.intakeq.webhook import read_webhook
from unit.intakeq_samples import (
    CONTEXT,
    WEBHOOKS,
    read,
    record_changes,
    sample,
    with_appointment,
    without_appointment_field,
)

REASONS = {
    "empty_body",
    "body_too_large",
    "unknown_content_encoding",
    "not_inflatable",
    "invalid_utf8",
    "not_json",
    "nested_too_deeply",
    "not_an_object",
    "missing_field",
    "invalid_field",
    "date_out_of_range",
}
WRONG = [
    True,
    False,
    0,
    -1,
    1,
    1.5,
    1e308,
    2**63,
    2**64 - 1,
    "",
    " ",
    "text",
    "\0",
    "9" * 40,
    "2025-13-45",
    "x" * 3_000,
    [],
    [1],
    [[]],
    [{}],
    {},
    {"Id": None},
    {"Id": []},
    {"a": {"b": [None]}},
]
APPOINTMENT_FIELDS = sorted(sample("appointment_created_telehealth")["Appointment"])
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.sampled_from(WRONG),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=6,
)


def outcome(body: bytes) -> str:
    """Read a body and check that whatever comes of it can be stored; gives the reason or `read`."""
    try:
        reading = read_webhook(body, {}, CONTEXT)
    except Rejected as error:
        return error.reason
    check_storable(reading)
    return "read"


def check_storable(reading: WebhookReading) -> None:
    for change in reading.changes:
        assert 0 < len(change.entity.external_id) <= 200
        if isinstance(change, Refetch):
            continue
        assert isinstance(change, Upsert | Delete)
        assert change.version.content_hash == content_hash(change.content)
        assert Version.from_bytes(change.version.to_bytes()) == change.version
        assert change.content is not None
        assert "\0" not in repr(change.content)
        repr(change.content).encode()
        if isinstance(change.content, Appointment):
            assert change.content.start_time <= change.content.end_time
            orjson.dumps(change.content.details)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_rejected_with_a_known_reason(body: bytes) -> None:
    assert outcome(body) in REASONS


@pytest.mark.parametrize("name", WEBHOOKS)
@given(data=st.data())
def test_a_sample_with_bytes_changed_is_read_or_rejected_with_a_known_reason(name: str, data: st.DataObject) -> None:
    body = bytearray(orjson.dumps(sample(name)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 12)))
        body[start:end] = data.draw(st.binary(max_size=6) | st.sampled_from([b"\\u0000", b"\\ud83d", b"\0", b"[" * 80]))
    assert outcome(bytes(body)) in REASONS | {"read"}


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_sample_cut_short_anywhere_is_rejected(name: str) -> None:
    body = orjson.dumps(sample(name))
    assert {outcome(body[:length]) for length in range(1, len(body))} == {"not_json"}


@given(
    name=st.sampled_from(WEBHOOKS), values=st.dictionaries(st.sampled_from(APPOINTMENT_FIELDS), ANY_JSON, max_size=4)
)
def test_a_sample_with_fields_replaced_is_read_or_rejected_with_a_known_reason(
    name: str, values: dict[str, Any]
) -> None:
    envelope = sample(name)
    for holder in (envelope, envelope.get("Appointment"), envelope.get("Invoice")):
        if holder is not None:
            holder.update({key: value for key, value in values.items() if key in holder})
    assert outcome(orjson.dumps(envelope)) in REASONS | {"read"}


@given(ANY_JSON)
def test_any_json_is_read_or_rejected_with_a_known_reason(value: Any) -> None:
    assert outcome(orjson.dumps(value)) in REASONS | {"read"}
    assert outcome(orjson.dumps({"EventType": "AppointmentCreated", "Appointment": value})) in REASONS | {"read"}


@pytest.mark.parametrize("key", APPOINTMENT_FIELDS)
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
def test_a_wrong_value_in_one_field_spoils_that_field_at_most(key: str, value: Any) -> None:
    try:
        reading = read(with_appointment(**{key: value}))
    except Rejected as error:
        assert f"body.Appointment.{key}" in str(error)  # noqa: PT017  # either way is right; the other one is below
        return
    check_storable(reading)
    for change, plain in zip(reading.changes, read(sample("appointment_created")).changes, strict=False):
        assert type(change) is type(plain) or isinstance(change, Refetch)


@pytest.mark.parametrize("key", APPOINTMENT_FIELDS)
def test_a_missing_field_reads_as_none_or_is_named(key: str) -> None:
    try:
        check_storable(read(without_appointment_field(key)))
    except Rejected as error:
        assert key in ("Id", "Status")  # only without these can an appointment not be kept
        assert error.reason == "missing_field"  # noqa: PT017  # as above


def test_a_missing_start_is_named_where_no_other_field_tells_it() -> None:
    with pytest.raises(Rejected) as caught:
        read(without_appointment_field("StartDate", "StartDateIso"))
    assert caught.value.reason == "missing_field"
    assert "StartDate" in str(caught.value)


def test_a_bad_mention_field_is_named_as_such() -> None:
    with pytest.raises(Rejected, match=r"body\.Appointment\.ClientEmail"):
        record_changes(read(with_appointment(ClientEmail={"address": "client12@example.test"})))
