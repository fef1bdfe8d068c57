"""What a run reads and in which order: the call plan, made from what is known of the practice. Pure.

A full run reads everything, by expected benefit; a run for changes reads the lists that tell of them. What a whole day
of runs costs is domain/day_plan's business.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, tzinfo

from eventsync.domain.reads import Covered, Covers, Cursor, Knowledge, PlannedRead, PracticeSize
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import (
    DEFAULT_RULES,
    ReadingRules,
    Slice,
    rows_between,
    slices_of,
    verified_by_day,
    verified_on,
)

OVERLAP = timedelta(minutes=10)  # a list is asked for again from before its last read: writes and clocks are late
DELETED_CLIENTS_AFTER = timedelta(hours=6)
VERIFY_NEAR_AFTER = timedelta(hours=3)

_DAY = timedelta(days=1)
_LONGEST_GAP = timedelta(days=7)  # what changed before that is left to the daily run, which costs less by then
_DELETIONS_MARGIN = timedelta(hours=1)
_CLIENTS_DISTANCE_DAYS = 30  # among lists of one age: after the nearest month, before the rest of the window


def full_plan(
    knowledge: Knowledge, today: date, now: datetime, rules: ReadingRules = DEFAULT_RULES
) -> tuple[PlannedRead, ...]:
    """Plan a full run: every appointment of the window, every client, and what was deleted lately.

    `today` is the practice's. First the days around it, then the deletions, then what was verified longest ago or
    never, the nearest first; so that a run that ends early has done the most useful part, and the next one the rest.
    """
    slices = slices_of(knowledge.size, today, rules)
    near = [_window(piece, rules) for piece in slices if piece.is_near]
    verified = verified_by_day(knowledge.covered, rules.first_day(today), rules.last_day(today))
    others = [
        ((verified_on(piece, verified), piece.distance_days), _window(piece, rules))
        for piece in slices
        if not piece.is_near
    ]
    clients = PlannedRead(
        kind=RecordKind.PATIENT, covers=Covers.EVERYTHING, expected_calls=rules.calls_for(knowledge.size.clients)
    )
    others.append(((_clients_verified_on(knowledge.covered), _CLIENTS_DISTANCE_DAYS), clients))
    deletions = [_deletions(knowledge, kind, now, rules) for kind in (RecordKind.APPOINTMENT, RecordKind.PATIENT)]
    ordered = sorted(others, key=lambda entry: entry[0])  # stable: of equals, the nearer slice stays first
    return (*near, *deletions, *(read for _, read in ordered))


def changes_plan(
    knowledge: Knowledge,
    today: date,
    now: datetime,
    *,
    spare_calls: int = 0,
    verify_near_after: timedelta = VERIFY_NEAR_AFTER,
    rules: ReadingRules = DEFAULT_RULES,
) -> tuple[PlannedRead, ...]:
    """Plan a sweep, or a person's "Refresh all": what changed and what was deleted since the last one.

    `spare_calls` may be spent beside that: on today's and tomorrow's appointments, where they were not verified for
    `verify_near_after`. Everything else is the daily run's.
    """
    reads = [
        _changes(knowledge, RecordKind.APPOINTMENT, now, rules),
        _deletions(knowledge, RecordKind.APPOINTMENT, now, rules),
        _changes(knowledge, RecordKind.PATIENT, now, rules),
    ]
    followed = knowledge.deleted.get(RecordKind.PATIENT)
    if followed is None or now - followed.covered_until >= DELETED_CLIENTS_AFTER:
        reads.append(_deletions(knowledge, RecordKind.PATIENT, now, rules))
    near = near_read(knowledge.size, today, rules)
    if near.expected_calls <= spare_calls and now - _near_verified_at(knowledge, today) >= verify_near_after:
        reads.append(near)
    return tuple(reads)


def near_read(size: PracticeSize, today: date, rules: ReadingRules = DEFAULT_RULES) -> PlannedRead:
    """Plan the read that verifies today and tomorrow; a day more on either side, as a window claims less."""
    first_day, last_day = today - _DAY, today + 2 * _DAY
    return PlannedRead(
        kind=RecordKind.APPOINTMENT,
        covers=Covers.WINDOW,
        first_day=first_day,
        last_day=last_day,
        expected_calls=rules.calls_for(rows_between(size, first_day, last_day)),
    )


def changed_since_day(since: datetime, zone: tzinfo = UTC) -> date:
    """Name the day to filter by so that every change after `since` is listed, wherever the vendor's midnight is."""
    return min(since.astimezone(UTC).date(), since.astimezone(zone).date()) - _DAY


def calls_for_changes(size: PracticeSize, kind: RecordKind, since: datetime, now: datetime, rules: ReadingRules) -> int:
    """Expect so many calls for a list of changes: its filter knows whole days only, so it lists two of them or more."""
    days = (now.astimezone(UTC).date() - changed_since_day(since)).days + 1
    return rules.calls_for(math.ceil(size.changes_per_day.get(kind, 0.0) * days))


def _window(piece: Slice, rules: ReadingRules) -> PlannedRead:
    return PlannedRead(
        kind=RecordKind.APPOINTMENT,
        covers=Covers.WINDOW,
        first_day=piece.first_day,
        last_day=piece.last_day,
        expected_calls=rules.calls_for(piece.rows),
    )


def _changes(knowledge: Knowledge, kind: RecordKind, now: datetime, rules: ReadingRules) -> PlannedRead:
    since = _resumed_from(knowledge.changed.get(kind), otherwise=now - _DAY, not_before=now - _LONGEST_GAP)
    calls = calls_for_changes(knowledge.size, kind, since, now, rules)
    return PlannedRead(kind=kind, covers=Covers.CHANGES, since=since, expected_calls=calls)


def _deletions(knowledge: Knowledge, kind: RecordKind, now: datetime, rules: ReadingRules) -> PlannedRead:
    told_since = now - rules.deletions_told_for + _DELETIONS_MARGIN
    since = _resumed_from(knowledge.deleted.get(kind), otherwise=told_since, not_before=told_since)
    calls = rules.calls_for(knowledge.size.deleted_lately.get(kind, 0))
    return PlannedRead(kind=kind, covers=Covers.DELETIONS, since=since, expected_calls=calls)


def _resumed_from(cursor: Cursor | None, *, otherwise: datetime, not_before: datetime) -> datetime:
    """Go on where the last list ended: by the vendor's own clock where it told a time, since ours may be ahead."""
    if cursor is None:
        return otherwise
    followed_until = min(cursor.covered_until, cursor.last_modified or cursor.covered_until)
    return max(followed_until - OVERLAP, not_before)


def _clients_verified_on(covered: tuple[Covered, ...]) -> date:
    moments = [window.read_began_at for window in covered if window.kind is RecordKind.PATIENT]
    return max(moments).astimezone(UTC).date() if moments else date.min


def _near_verified_at(knowledge: Knowledge, today: date) -> datetime:
    """Tell since when both today and tomorrow are verified."""
    verified = verified_by_day(knowledge.covered, today, today + _DAY)
    never = datetime.min.replace(tzinfo=UTC)
    return min(verified.get(today, never), verified.get(today + _DAY, never))
