"""The drift report: what became of the webhook that should have told of each record a sweep found wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.drift import DriftCount, DriftVerdict
from eventsync.domain.events import Lane, Outcome
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import RunId
from eventsync.postgres.database import Database
from eventsync.postgres.drift import DriftFilter
from eventsync.postgres.queue import finish
from eventsync.postgres.queue_values import Finished, Parked
from postgres.drifting import HOUR, MINUTE, NOW, SECOND, STARTS, SWEEP, Change, Drifting

DAY = timedelta(days=1)
BOOKED = Change("a1", SWEEP - 5 * HOUR, "AppointmentCreated")
MOVED = Change("a1", SWEEP - 2 * HOUR, start=STARTS + HOUR)


@pytest.fixture
def practice(pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]) -> Drifting:
    return Drifting(pool, keyring, connection_ids[0])


async def test_a_webhook_that_was_never_received_never_came(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.sweep(MOVED)
    (found,) = await practice.found()
    assert found.verdict is DriftVerdict.NEVER_CAME
    assert (found.kind, found.external_id, found.connection) == (RecordKind.APPOINTMENT, "a1", 1)
    assert (found.since, found.changed_fields) == (MOVED.at, ("end_time", "start_time"))
    assert (found.expected_event, found.is_new) == ("AppointmentRescheduled", False)
    assert (found.webhook_event_id, found.webhook_received_at) == (None, None)


async def test_a_booking_whose_webhook_was_lost_is_a_new_record(practice: Drifting) -> None:
    await practice.sweep(BOOKED)
    (found,) = await practice.found()
    assert (found.is_new, found.expected_event, found.verdict) == (True, "AppointmentCreated", "never_came")


async def test_an_edit_for_which_the_vendor_sends_nothing_is_unannounced(practice: Drifting) -> None:
    await practice.webhook(MOVED)
    await practice.sweep(replace(MOVED, price=120, at=SWEEP - HOUR))
    (found,) = await practice.found()
    assert (found.verdict, found.expected_event) == (DriftVerdict.UNANNOUNCED, None)
    assert found.changed_fields == ("price",)
    assert found.webhook_event_id is None


async def test_a_silent_edit_after_a_lost_webhook_does_not_hide_it(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.sweep(replace(MOVED, price=120, at=SWEEP - HOUR))
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_the_webhook_of_an_earlier_version_does_not_count(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.webhook(MOVED)
    await practice.sweep(replace(MOVED, at=SWEEP - HOUR, start=STARTS + 2 * HOUR))
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_the_late_webhook_of_an_earlier_version_does_not_count(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.sweep(replace(MOVED, at=SWEEP - HOUR, start=STARTS + 2 * HOUR))
    await practice.webhook(MOVED, after=2 * HOUR + 2 * MINUTE)
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_the_webhook_of_a_later_change_does_not_count(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.sweep(MOVED)
    await practice.webhook(replace(MOVED, at=SWEEP + 10 * MINUTE, start=STARTS + 2 * HOUR))
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_a_webhook_that_comes_after_the_read_began_is_late_and_named(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.sweep(MOVED)
    assert await practice.verdicts() == {"a1": "never_came"}
    late = await practice.webhook(MOVED, after=2 * HOUR + 2 * MINUTE)
    (found,) = await practice.found()
    assert found.verdict is DriftVerdict.LATE
    assert (found.webhook_event_id, found.webhook_received_at) == (late, SWEEP + 2 * MINUTE)


async def test_a_webhook_that_waited_with_us_until_the_sweep_was_done_is_late(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    event_id = await practice.receive(MOVED.at + 5 * SECOND)
    await practice.sweep(MOVED)
    await practice.apply(event_id, MOVED, SWEEP + 2 * MINUTE)
    assert await practice.verdicts() == {"a1": "late"}


async def test_a_webhook_that_still_waits_to_be_read_from_the_vendor_is_late(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    event_id = await practice.waiting(MOVED)
    await practice.sweep(MOVED)
    (found,) = await practice.found()
    assert (found.verdict, found.webhook_event_id) == (DriftVerdict.LATE, event_id)


async def test_a_parked_webhook_of_that_time_is_named(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    event_id = await practice.parked(MOVED)
    await practice.sweep(MOVED)
    (found,) = await practice.found()
    assert (found.verdict, found.webhook_event_id) == (DriftVerdict.PARKED, event_id)


async def test_a_parked_webhook_that_was_applied_again_is_late(practice: Drifting) -> None:
    event_id = await practice.parked(MOVED)
    await practice.sweep(MOVED)
    await practice.queue.unpark(event_id, NOW, Lane.FRESH)
    await practice.apply(event_id, MOVED, NOW)
    assert await practice.verdicts() == {"a1": "late"}


@pytest.mark.parametrize("apart", [-HOUR, 6 * MINUTE])
async def test_a_parked_webhook_of_another_change_does_not_count(practice: Drifting, apart: timedelta) -> None:
    await practice.webhook(BOOKED)
    await practice.parked(replace(MOVED, at=MOVED.at + apart))
    await practice.sweep(MOVED)
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_a_parked_webhook_that_nobody_could_read_is_only_counted(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.queue.park([Parked(await practice.receive(MOVED.at + SECOND), "not_json")])
    await practice.sweep(MOVED)
    assert await practice.verdicts() == {"a1": "never_came"}
    assert (await practice.report.summary(DriftFilter(), NOW)).parked_unread == 1
    since = DriftFilter(since=SWEEP)
    assert (await practice.report.summary(since, NOW)).parked_unread == 0


async def test_a_webhook_that_came_in_time_and_changed_nothing_was_dropped_by_the_guard(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    told_too_early = replace(BOOKED, at=MOVED.at, told_by="AppointmentRescheduled")  # still with the old time
    dropped = await practice.webhook(told_too_early)
    await practice.sweep(MOVED)
    (found,) = await practice.found()
    assert (found.verdict, found.webhook_event_id) == (DriftVerdict.DROPPED_BY_GUARD, dropped)


async def test_a_webhook_that_changed_only_the_client_whom_it_names_was_dropped_by_the_guard(
    practice: Drifting,
) -> None:
    await practice.webhook(BOOKED)
    dropped = await practice.receive(MOVED.at + SECOND)
    end = Finished(
        dropped, Outcome.APPLIED, "AppointmentRescheduled", "appointment", "a1", MOVED.position,
        changed_fields=("patient.phone",),
    )  # fmt: skip
    async with practice.pool.transaction() as session:
        await finish(session, [end], MOVED.at + SECOND)
    await practice.sweep(MOVED)
    (found,) = await practice.found()
    assert (found.verdict, found.webhook_event_id) == (DriftVerdict.DROPPED_BY_GUARD, dropped)


async def test_a_replay_is_no_webhook(practice: Drifting, database: asyncpg.Connection) -> None:
    await practice.sweep(MOVED)
    await practice.webhook(MOVED, after=3 * HOUR)
    await database.execute("UPDATE event_history SET source = 'replay'")
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_an_applied_webhook_of_the_same_millisecond_told_of_something_else(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.webhook(MOVED)
    await practice.sweep(replace(MOVED, start=STARTS + 2 * HOUR))
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_a_webhook_is_awaited_for_five_minutes_after_the_change(practice: Drifting) -> None:
    await practice.sweep(replace(BOOKED, at=SWEEP))
    assert await practice.verdicts(SWEEP + 5 * MINUTE - SECOND) == {"a1": "awaited"}
    assert await practice.verdicts(SWEEP + 5 * MINUTE) == {"a1": "never_came"}


async def test_a_webhook_may_be_among_those_that_nobody_has_read_yet(practice: Drifting) -> None:
    await practice.sweep(MOVED)
    for outside in (MOVED.at - MINUTE, MOVED.at + 6 * MINUTE):
        await practice.receive(outside)
    assert await practice.verdicts() == {"a1": "never_came"}
    unread = await practice.receive(MOVED.at + 4 * MINUTE)
    assert await practice.verdicts() == {"a1": "awaited"}
    await practice.apply(unread, replace(MOVED, name="a2"), NOW)
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_another_connections_webhook_is_none_of_ours(
    practice: Drifting, pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]
) -> None:
    other = Drifting(pool, keyring, connection_ids[1])
    await practice.sweep(MOVED)
    await other.webhook(MOVED, after=2 * HOUR + 2 * MINUTE)
    await other.parked(MOVED)
    await other.receive(MOVED.at + SECOND)
    assert await practice.verdicts() == {"a1": "never_came"}


async def test_a_deletion_needs_the_webhook_of_a_deletion(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    deleted = replace(BOOKED, at=MOVED.at, told_by="AppointmentDeleted", deleted=True)
    await practice.sweep(deleted)
    (found,) = await practice.found()
    assert (found.expected_event, found.changed_fields) == ("AppointmentDeleted", ("deleted_at",))
    await practice.webhook(replace(deleted, deleted=False, told_by="AppointmentMissed"), after=3 * HOUR)
    assert await practice.verdicts() == {"a1": "never_came"}
    await practice.webhook(deleted, after=3 * HOUR)
    assert await practice.verdicts() == {"a1": "late"}


async def test_an_absence_needs_the_webhook_of_a_deletion_and_knows_no_since(practice: Drifting) -> None:
    await practice.webhook(replace(BOOKED, at=SWEEP - 9 * HOUR))
    gone = replace(BOOKED, at=SWEEP - 8 * HOUR, told_by="AppointmentDeleted", deleted=True)
    for _ in range(2):  # the second time it changed nothing
        await practice.webhook(gone)
    await practice.webhook(BOOKED)  # it came back
    await practice.miss("a1")
    (found,) = await practice.found()
    assert (found.expected_event, found.since, found.verdict) == ("AppointmentDeleted", None, "never_came")
    await practice.webhook(replace(gone, at=SWEEP - HOUR), after=2 * HOUR)
    assert await practice.verdicts() == {"a1": "late"}


async def test_an_absence_finds_its_parked_webhook_by_its_name(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.parked(replace(BOOKED, told_by="AppointmentConfirmed"))
    await practice.miss("a1")
    assert await practice.verdicts(SWEEP + 5 * MINUTE - SECOND) == {"a1": "awaited"}
    assert await practice.verdicts() == {"a1": "never_came"}
    await practice.parked(replace(BOOKED, told_by="AppointmentDeleted"))
    assert await practice.verdicts() == {"a1": "parked"}


async def test_a_record_that_came_back_was_announced_by_nobody(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.miss("a1", SWEEP - HOUR)
    await practice.sweep(BOOKED)
    came_back, went = await practice.found()
    assert (came_back.changed_fields, came_back.expected_event) == (("deleted_at",), None)
    assert came_back.verdict is DriftVerdict.UNANNOUNCED
    assert went.expected_event == "AppointmentDeleted"


async def test_what_a_sweep_finds_as_it_should_be_is_no_finding(practice: Drifting) -> None:
    await practice.webhook(BOOKED)
    await practice.webhook(MOVED)
    assert await practice.sweep(MOVED) == []
    assert await practice.found() == []


@pytest.mark.parametrize("seed", range(6))
async def test_random_histories_are_judged_as_a_simple_model_does(practice: Drifting, seed: int) -> None:
    random = Random(seed)
    expected: dict[str, str] = {}
    for number in range(60):
        name = f"r{number}"
        verdict = await a_random_history(practice, random, name)
        if verdict is not None:
            expected[name] = verdict
    assert await practice.verdicts() == expected
    assert set(expected.values()) >= {"unannounced", "parked", "late", "never_came"}


async def a_random_history(practice: Drifting, random: Random, name: str) -> str | None:
    """Let an appointment live through changes, an hour apart, and a sweep; answer what the report should say.

    The model: a webhook counts where it told of the last version. Before the sweep only delivered ones have been seen.
    """
    version = Change(name, SWEEP - 10 * HOUR, "AppointmentCreated")
    history = [(version, random.choice(["delivered", "lost"]))]
    for _ in range(random.randrange(5)):
        version = replace(version, at=version.at + HOUR)
        if random.random() < 0.7:
            version = replace(version, start=version.start + HOUR, told_by="AppointmentRescheduled")
            history.append((version, random.choice(["delivered", "lost", "late", "parked"])))
        else:
            version = replace(version, price=version.price + 1, told_by=None)
            history.append((version, "silent"))
    for change, fate in history:
        if fate == "delivered":
            await practice.webhook(change)
        elif fate == "parked":
            await practice.parked(change)
    await practice.sweep(version)
    for change, fate in history:
        if fate == "late":
            await practice.webhook(change, after=SWEEP + 3 * MINUTE - change.at)
    return verdict_of(history)


def verdict_of(history: list[tuple[Change, str]]) -> str | None:
    """Judge a history that a sweep has seen; None where nothing was wrong."""
    last, fate = history[-1]
    known = [change for change, its_fate in history if its_fate == "delivered"]
    if known and (known[-1].start, known[-1].price) == (last.start, last.price):
        return None
    if known and known[-1].start == last.start:
        return "unannounced"
    return fate if fate in ("late", "parked") else "never_came"


async def test_findings_are_listed_the_latest_first_and_page_by_page(practice: Drifting) -> None:
    for number in range(3):
        changes = [replace(BOOKED, name=f"p{number}{letter}") for letter in "ab"]
        await practice.sweep(*changes, began=SWEEP + number * MINUTE)
    everything = await practice.found()
    assert [found.external_id for found in everything] == ["p2b", "p2a", "p1b", "p1a", "p0b", "p0a"]
    seen = await practice.report.findings(DriftFilter(), NOW, limit=4)
    seen += await practice.report.findings(DriftFilter(), NOW, after=seen[-1].cursor, limit=4)
    assert seen == everything


async def test_findings_are_filtered_and_counted_alike(
    practice: Drifting,
    pool: Database,
    keyring: Keyring,
    connection_ids: list[ConnectionId],
    database: asyncpg.Connection,
) -> None:
    run_id = RunId(uuid4())
    await database.execute(
        "INSERT INTO sync_logs (id, sync_type, connection_id, triggered_by, started_at, created_at, updated_at)"
        " VALUES ($1, 'automated_sweep', $2, 'schedule', $3, $3, $3)", run_id, practice.connection_id, NOW,
    )  # fmt: skip
    owner = OrganizationId(
        await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", practice.connection_id)
    )
    other = Drifting(pool, keyring, connection_ids[1])
    await other.sweep(replace(BOOKED, name="theirs"))
    await practice.sweep(replace(BOOKED, name="a1"), run_id=run_id)
    await practice.sweep(replace(BOOKED, name="a2"), began=SWEEP + 10 * MINUTE)
    await practice.webhook(replace(BOOKED, name="a2"), after=NOW - BOOKED.at)
    await practice.sweep(replace(BOOKED, name="a1", price=7, at=SWEEP + 15 * MINUTE), began=SWEEP + 20 * MINUTE)
    cases: list[tuple[DriftFilter, list[str]]] = [
        (DriftFilter(), ["a1", "a2", "a1", "theirs"]),
        (DriftFilter(organization_id=owner), ["a1", "a2", "a1"]),
        (DriftFilter(organization_id=owner, connection_id=other.connection_id), []),
        (DriftFilter(connection_id=other.connection_id), ["theirs"]),
        (DriftFilter(run_id=run_id), ["a1"]),
        (DriftFilter(kind=RecordKind.PATIENT), []),
        (DriftFilter(kind=RecordKind.APPOINTMENT, external_id="a2"), ["a2"]),
        (DriftFilter(since=SWEEP + 11 * MINUTE), ["a1", "a2"]),
        (DriftFilter(until=SWEEP + 11 * MINUTE), ["a1", "theirs"]),
        (DriftFilter(verdict=DriftVerdict.LATE), ["a2"]),
        (DriftFilter(verdict=DriftVerdict.UNANNOUNCED), ["a1"]),
        (DriftFilter(verdict=DriftVerdict.NEVER_CAME), ["a1", "theirs"]),
    ]
    for wanted, names in cases:
        found = await practice.report.findings(wanted, NOW)
        assert [each.external_id for each in found] == names, wanted
        assert sum(row.count for row in (await practice.report.summary(wanted, NOW)).counts) == len(names), wanted
    summary = await practice.report.summary(DriftFilter(), NOW)
    assert summary.counts == (
        DriftCount("AppointmentCreated", DriftVerdict.LATE, 1),
        DriftCount("AppointmentCreated", DriftVerdict.NEVER_CAME, 2),
        DriftCount(None, DriftVerdict.UNANNOUNCED, 1),
    )
    assert (summary.of(DriftVerdict.NEVER_CAME), summary.of(DriftVerdict.PARKED)) == (2, 0)


async def test_old_findings_go_with_the_history_that_explains_them(practice: Drifting) -> None:
    await practice.sweep(BOOKED)
    await practice.sweep(replace(BOOKED, name="a2"), began=SWEEP + 10 * MINUTE)
    await practice.report.prune(SWEEP + 5 * MINUTE)
    assert await practice.verdicts() == {"a2": "never_came"}


async def test_a_webhook_is_told_by_its_version_whatever_our_clock_said(practice: Drifting) -> None:
    """The vendor's clock may be hours ahead of the door's."""
    await practice.webhook(BOOKED)
    event_id = await practice.receive(MOVED.at - 3 * HOUR)
    await practice.sweep(MOVED)
    assert await practice.apply(event_id, MOVED, NOW) is Outcome.UNCHANGED
    assert await practice.verdicts() == {"a1": "late"}
