"""Every event that can be received comes out of its sealed bytes as it went in."""

from __future__ import annotations

from datetime import UTC
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventsync.crypto import KEY_BYTES, Keyring
from eventsync.domain.connections import ConnectionId, HmacCheck, SignatureEncoding, WebhookVerifier
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Lane
from eventsync.spool.entries import (
    SealedEntry,
    UnverifiedEvent,
    open_event,
    open_unverified,
    open_verifiers,
    seal_event,
    seal_unverified,
    seal_verifiers,
)
from eventsync.spool.errors import EntryDamaged

KEYRING = Keyring([b"k" * KEY_BYTES])

any_text = st.text(st.characters(), max_size=40)  # lone surrogates and NUL included: that is how bad headers arrive
event_ids = st.uuids().map(EventId)
connection_ids = st.uuids().map(ConnectionId)
header_lists = st.lists(st.tuples(any_text, any_text), max_size=5).map(tuple)
hashes = st.binary(min_size=32, max_size=32)

incoming_events = st.builds(
    IncomingEvent,
    id=event_ids,
    connection_id=connection_ids,
    vendor=any_text,
    source=st.sampled_from(EventSource),
    headers=header_lists,
    body=st.binary(max_size=3000),
    parked_reason=st.none() | any_text,
    lane=st.sampled_from(Lane),
    caused_by=st.none() | event_ids,
)
unverified_events = st.builds(
    UnverifiedEvent,
    id=event_ids,
    vendor=any_text,
    token_hash=hashes,
    headers=header_lists,
    body=st.binary(max_size=3000),
    remote_address=st.none() | any_text,
)
hmac_checks = st.builds(
    HmacCheck,
    header=any_text,
    secrets=st.lists(any_text, min_size=1, max_size=3).map(tuple),
    encoding=st.sampled_from(SignatureEncoding),
    prefix=any_text,
)
webhook_verifiers = st.builds(
    WebhookVerifier,
    token_hash=hashes,
    connection_id=connection_ids,
    vendor=any_text,
    hmac=st.none() | hmac_checks,
    allowed_networks=st.lists(any_text, max_size=3).map(tuple),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)
ODD = IncomingEvent(
    id=EventId(UUID(int=1)),
    connection_id=ConnectionId(UUID(int=2)),
    vendor="intakeq",
    source=EventSource.WEBHOOK,
    headers=(("X-Bytes", "\udcff\udc80"), ("X-Nul", "\x00"), ("X-Bytes", "again")),
    body=b'\x00\xff\xfe{"a": "\\u0000"}',
)


@given(event=incoming_events)
@example(event=ODD)
def test_an_event_opens_as_it_was_sealed(event: IncomingEvent) -> None:
    assert open_event(KEYRING, seal_event(KEYRING, event)) == event


@given(event=unverified_events)
def test_an_unverified_event_opens_as_it_was_sealed(event: UnverifiedEvent) -> None:
    assert open_unverified(KEYRING, seal_unverified(KEYRING, event)) == event


@given(verifiers=st.lists(webhook_verifiers, max_size=4).map(tuple))
def test_verifiers_open_as_they_were_sealed(verifiers: tuple[WebhookVerifier, ...]) -> None:
    assert open_verifiers(KEYRING, seal_verifiers(KEYRING, verifiers)) == verifiers


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\x02\x00\x00\x00\x02{}",
        b"\x01",
        b"\x01\x00\x00\x00\x02{}",
        b"\x01\x00\x00\x00\x02[]",
        b"\x01\xff\xff\xff\xff{}",
        b"\x01\x00\x00\x00\x04null",
        b'\x01\x00\x00\x00\x14{"connection_id": 12}',
    ],
)
def test_an_entry_of_an_unknown_format_is_damaged_and_nothing_else(plaintext: bytes) -> None:
    event_id = EventId(UUID(int=1))
    for lane, open_entry in (("verified", open_event), ("unverified", open_unverified)):
        sealed = KEYRING.seal(plaintext, f"spool:{lane}:{event_id}")
        with pytest.raises(EntryDamaged, match="unknown_format"):
            open_entry(KEYRING, SealedEntry(event_id, lane == "verified", sealed))
    with pytest.raises(EntryDamaged, match="unknown_format"):
        open_verifiers(KEYRING, KEYRING.seal(plaintext, "spool:verifiers"))


def test_an_event_does_not_show_personal_data_when_it_is_printed() -> None:
    event = UnverifiedEvent(EventId(UUID(int=1)), "intakeq", b"token-hash", (("X-A", "header")), b"body", "192.0.2.7")  # type: ignore[arg-type]  # only its text matters here
    assert not any(secret in repr(event) for secret in ("header", "body", "192.0.2.7", "token-hash"))
    assert "body" not in repr(seal_unverified(KEYRING, UnverifiedEvent(event.id, "intakeq", b"", (), b"body")))
