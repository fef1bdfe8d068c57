"""Drift: what a sweep found wrong, which webhook should have told of it, and what became of that webhook.

A finding is written with the page that repaired its record; its verdict is made when somebody asks, since a webhook
may still come.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from eventsync.domain.changes import Absence, RecordChange
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, Outcome
from eventsync.domain.merging import Merged
from eventsync.domain.records import Content, RecordKind
from eventsync.domain.runs import RunId

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEQUENCED = frozenset({RecordKind.INTAKE, RecordKind.NOTE})  # their positions count our reads, and are no times
_DELETED = "deleted_at"


class DriftVerdict(StrEnum):
    """What became of the webhook that should have told of a change."""

    UNANNOUNCED = "unannounced"  # the vendor sends none for such a change
    PARKED = "parked"  # it came, and waits for a person
    DROPPED_BY_GUARD = "dropped_by_guard"  # it came in time, and left the record as it was
    LATE = "late"  # it came, or came to its end, only after the sweep had begun to read
    AWAITED = "awaited"  # none was seen yet, and it may still come
    NEVER_CAME = "never_came"


class Announcements(Protocol):
    """A vendor, as far as it knows its own webhooks."""

    def announcement_of(
        self, kind: RecordKind, changed_fields: Collection[str], content: Content | None, *, is_new: bool
    ) -> str | None:
        """Name the event whose webhook tells of such a change; None where the vendor sends none."""


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """A record that a sweep found wrong, by the names of its fields, without their values.

    `since` is the vendor's modification time of the version that was found, None for absences and for kinds without
    such a time; `position` is that version's place, for an absence the place of the version that it ended.
    `expected_event` is the vendor's name of the webhook that should have told of it, None where the vendor sends none.
    """

    connection_id: ConnectionId
    kind: RecordKind
    external_id: str
    run_id: RunId | None
    found_at: datetime
    read_began_at: datetime
    since: datetime | None
    position: int | None
    changed_fields: tuple[str, ...]
    is_new: bool
    expected_event: str | None


@dataclass(frozen=True, slots=True)
class DriftCursor:
    """The last finding of a page: the next page begins after it."""

    found_at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class ReportedDrift:
    """A finding with its verdict: which fields were wrong since when, and what became of the `expected_event`.

    `since` is null for a record that was gone; `run_id` is the run whose sweep found it. The webhook is named where one
    was seen: it can be shown by that event's id.
    """

    id: int
    connection_id: ConnectionId
    connection: int
    kind: RecordKind
    external_id: str
    run_id: RunId | None
    found_at: datetime
    since: datetime | None
    changed_fields: tuple[str, ...]
    is_new: bool
    expected_event: str | None
    verdict: DriftVerdict
    webhook_event_id: EventId | None
    webhook_received_at: datetime | None

    @property
    def cursor(self) -> DriftCursor:
        """Where the page after this finding begins."""
        return DriftCursor(self.found_at, self.id)


@dataclass(frozen=True, slots=True)
class DriftCount:
    """How many findings have one expected event (null: the vendor sends none) and one verdict."""

    expected_event: str | None
    verdict: DriftVerdict
    count: int


@dataclass(frozen=True, slots=True)
class DriftSummary:
    """Findings counted by expected event and verdict.

    `parked_unread` counts the parked webhooks of that time that name no record, since nobody could read them: some of
    those that never came may be among them.
    """

    counts: tuple[DriftCount, ...]
    parked_unread: int

    def of(self, verdict: DriftVerdict) -> int:
        """Count the findings with this verdict."""
        return sum(row.count for row in self.counts if row.verdict is verdict)


@dataclass(frozen=True, slots=True)
class WebhookSigns:
    """What tells whether a connection's webhook still works.

    `last_received_at` is None where nothing was heard as far back as one looked; `missed_changes` counts the changes
    since then that the vendor sends webhooks for and a sweep had to find.
    """

    connection_id: ConnectionId
    connection: int
    last_received_at: datetime | None
    missed_changes: int


def finding_of(
    vendor: Announcements,
    change: RecordChange,
    merged: Merged,
    *,
    run_id: RunId | None,
    read_began_at: datetime,
    found_at: datetime,
) -> DriftFinding | None:
    """Tell what a sweep's change says about the copy before it: None where it changed nothing that a reader sees."""
    core = merged.state.core
    if merged.outcome is not Outcome.APPLIED or core is None:
        return None
    kind = change.entity.kind
    position = None if kind in _SEQUENCED else core.version.position
    has_time = position is not None and not isinstance(change, Absence)
    return DriftFinding(
        connection_id=change.entity.connection_id,
        kind=kind,
        external_id=change.entity.external_id,
        run_id=run_id,
        found_at=found_at,
        read_began_at=read_began_at,
        since=_EPOCH + timedelta(milliseconds=core.version.position) if has_time else None,
        position=position,
        changed_fields=merged.changed_fields,
        is_new=merged.is_new,
        expected_event=vendor.announcement_of(kind, _told_fields(merged), core.content, is_new=merged.is_new),
    )


def _told_fields(merged: Merged) -> tuple[str, ...]:
    """Leave out that a record came back: a deletion is told, its opposite is not."""
    if merged.state.deleted_at_ms is not None:
        return merged.changed_fields
    return tuple(name for name in merged.changed_fields if name != _DELETED)
