"""What is wrong with one event is that event's alone: it parks with a reason, and those beside it are applied."""

from __future__ import annotations

import gzip
from dataclasses import replace
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.changes import Upsert
from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.domain.records import Appointment
from eventsync.domain.webhooks import WebhookReading
from eventsync.postgres.queue import EventQueue
from eventsync.stages.apply import MAX_ATTEMPTS
from stages.spine import (
    Spine,
    VendorDouble,
    an_appointment,
    history_of,
    is_about,
    outcomes,
    queued,
)

BAD = 50
PERSONAL = ("Test Client", "example.test", "2025550112", "1990-01-12", "Pat Doe")


def a_hundred() -> list[Any]:
    return [an_appointment(number) for number in range(100)]


def too_expensive(reading: WebhookReading) -> WebhookReading:
    """Let the mapping of one event give a price that no column of ours holds."""
    if not is_about(reading, BAD):
        return reading
    change = reading.changes[0]
    assert isinstance(change, Upsert)
    assert isinstance(change.content, Appointment)
    worse = replace(change, content=replace(change.content, price=Decimal("12345678901234.00")))
    return replace(reading, changes=(worse, *reading.changes[1:]))


def failing(error: Exception) -> VendorDouble:
    def read(reading: WebhookReading) -> WebhookReading:
        if is_about(reading, BAD):
            raise error
        return reading

    return VendorDouble(read)


async def test_one_malformed_event_in_a_full_batch_parks_alone_with_its_reason(
    spine: Spine, database: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    webhooks = a_hundred()
    webhooks[BAD]["Appointment"]["StartDate"] = "next Tuesday with Test Client 50"
    event_ids = await spine.apply(*webhooks)
    row = await queued(database, event_ids[BAD])
    assert (row["status"], row["reason"], row["attempts"]) == ("parked", "invalid_field", 1)
    assert "StartDate" in row["error"]
    assert "Tuesday" not in row["error"]
    assert await outcomes(database) == {"invalid_field": 1, "applied": 99}
    assert await database.fetchval("SELECT count(*) FROM appointments") == 99
    assert_nothing_personal(capsys)


async def test_one_event_that_postgres_refuses_parks_alone(
    spine: Spine, database: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    event_ids = await spine.receive(*a_hundred())
    await spine.applier({"intakeq": VendorDouble(too_expensive)}).apply(event_ids)
    assert (await queued(database, event_ids[BAD]))["reason"] == "database_refused"
    assert await outcomes(database) == {"database_refused": 1, "applied": 99}
    assert_nothing_personal(capsys)


async def test_one_event_over_which_the_adapter_fails_parks_alone_without_telling_its_data(
    spine: Spine, database: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    event_ids = await spine.receive(*a_hundred())
    vendor = failing(KeyError("Test Client 50 of Pat Doe"))
    await spine.applier({"intakeq": vendor}).apply(event_ids)
    row = await queued(database, event_ids[BAD])
    assert (row["reason"], row["error"]) == ("internal_error", "KeyError")
    assert await outcomes(database) == {"internal_error": 1, "applied": 99}
    assert_nothing_personal(capsys)


async def test_a_fault_of_ours_in_writing_is_tried_again_later_and_parks_in_the_end(
    spine: Spine, database: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    def unwritable(reading: WebhookReading) -> WebhookReading:
        if not is_about(reading, BAD):
            return reading
        change = reading.changes[0]
        assert isinstance(change, Upsert)
        return replace(reading, changes=(replace(change, version=change.version._replace(position=2**80)),))

    event_ids = await spine.receive(*a_hundred())
    applier = spine.applier({"intakeq": VendorDouble(unwritable)})
    await applier.apply(event_ids)
    assert await outcomes(database) == {"pending": 1, "applied": 99}
    await applier.apply(event_ids)  # an old copy of the message: it is not due yet
    assert (await queued(database, event_ids[BAD]))["attempts"] == 1
    for _ in range(MAX_ATTEMPTS - 1):
        spine.clock.advance(3600)
        await applier.apply(event_ids)
    row = await queued(database, event_ids[BAD])
    assert (row["status"], row["reason"], row["attempts"]) == ("parked", "internal_error", MAX_ATTEMPTS)
    assert_nothing_personal(capsys)


async def test_an_event_whose_body_does_not_open_parks_alone(
    spine: Spine, database: asyncpg.Connection, keyring: Keyring
) -> None:
    lost = EventQueue(spine.pool, Keyring([bytes(32)]))
    ours, spine.queue = spine.queue, lost
    (unreadable,) = await spine.receive(an_appointment(1))
    spine.queue = ours
    event_ids = await spine.receive(*[an_appointment(number) for number in range(2, 6)])
    await spine.applier().apply([unreadable, *event_ids])
    row = await queued(database, unreadable)
    assert (row["status"], row["reason"]) == ("parked", "misconfigured")
    assert "EVENTSYNC_ENCRYPTION_KEYS" in row["error"]
    assert await outcomes(database) == {"misconfigured": 1, "applied": 4}


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (gzip.compress(bytes(64 * 1024 * 1024)), (("Content-Encoding", "gzip"),), "body_too_large"),
        (b"{", (), "not_json"),
        (b"", (), "empty_body"),
        (b'{"EventType": ' + b"[" * 5000, (), "nested_too_deeply"),
        (b'{"EventType": "AppointmentCreated"}', (), "missing_field"),
        (b'["AppointmentCreated"]', (), "not_an_object"),
    ],
)
async def test_bad_input_is_parked_with_its_reason(
    spine: Spine, database: asyncpg.Connection, body: bytes, headers: tuple[tuple[str, str], ...], reason: str
) -> None:
    bad = await spine.receive(body, headers=headers)
    good = await spine.receive(an_appointment())
    await spine.applier().apply([*bad, *good])
    assert await outcomes(database) == {reason: 1, "applied": 1}


@pytest.mark.parametrize("name", [b"Test\\u0000Client", b"Test\\ud800Client"])
async def test_characters_that_postgres_cannot_store_stop_no_other_event(
    spine: Spine, database: asyncpg.Connection, name: bytes
) -> None:
    webhook = orjson.dumps(an_appointment(1, ClientName="Name", PractitionerName="Name"))
    for event_id in await spine.apply(webhook.replace(b'"Name"', b'"%b"' % name), an_appointment(2)):
        assert (await history_of(database, event_id))["outcome"] == "applied"


async def test_an_event_of_a_vendor_without_an_adapter_is_parked(spine: Spine, database: asyncpg.Connection) -> None:
    await spine.apply(an_appointment(), vendor="another")
    assert await outcomes(database) == {"unknown_vendor": 1}


@pytest.mark.parametrize("error", [Rejected("test_reason", "no"), Misconfigured("set something")])
async def test_what_an_adapter_says_of_an_event_becomes_its_reason(
    spine: Spine, database: asyncpg.Connection, error: Exception
) -> None:
    event_ids = await spine.receive(an_appointment(BAD))
    await spine.applier({"intakeq": failing(error)}).apply(event_ids)
    row = await queued(database, event_ids[0])
    assert row["reason"] in ("test_reason", "misconfigured")
    assert row["error"] == str(error)


async def test_suspects_are_counted_one_by_one_so_that_waiting_for_a_killer_costs_nobody_an_attempt(
    spine: Spine, database: asyncpg.Connection
) -> None:
    class Killed(BaseException):
        """The consumer's death, at which nothing is cleaned up."""

    def kill(reading: WebhookReading) -> WebhookReading:
        if is_about(reading, 0):
            raise Killed
        return reading

    event_ids = await spine.receive(*[an_appointment(number) for number in range(10)])
    deaths = 0
    while "pending" in await outcomes(database):
        try:
            await spine.applier({"intakeq": VendorDouble(kill)}).apply(event_ids)
        except Killed:
            deaths += 1
    assert deaths == MAX_ATTEMPTS
    assert await outcomes(database) == {"kills_the_consumer": 1, "applied": 9}
    assert await database.fetchval("SELECT max(attempts) FROM event_history") == 2


def assert_nothing_personal(capsys: pytest.CaptureFixture[str]) -> None:
    captured = capsys.readouterr()
    assert captured.out
    for personal in PERSONAL:
        assert personal not in captured.out + captured.err
