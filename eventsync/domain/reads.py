"""What a run reads: lists of the vendor's, each planned with what it covers and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from eventsync.domain.records import RecordKind


class Covers(StrEnum):
    """What a complete read of a list proves."""

    WINDOW = "window"  # every appointment of these days
    EVERYTHING = "everything"  # every record of the kind
    CHANGES = "changes"  # everything that changed since a moment
    DELETIONS = "deletions"  # everything that was deleted since a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRead:
    """One list, walked to its end.

    `first_day` and `last_day` (both included) belong to WINDOW; they are the vendor's whole days, whose midnight is not
    known, so that what a window claims is less by a day on either side unless the neighbouring days are read as well.
    `since` belongs to CHANGES and DELETIONS: nothing of what came after it may be left out.
    """

    kind: RecordKind
    covers: Covers
    first_day: date | None = None
    last_day: date | None = None
    since: datetime | None = None
    expected_calls: int = 1


@dataclass(frozen=True, slots=True)
class PracticeSize:
    """What is held of a connection, from which the cost of reading it is told.

    `appointments_by_day` counts living appointments by their day in UTC. `changes_per_day` are those that the last
    week's history saw, on average, by kind.
    """

    clients: int = 0
    appointments_by_day: Mapping[date, int] = field(default_factory=dict)
    changes_per_day: Mapping[RecordKind, float] = field(default_factory=dict)
    deleted_lately: Mapping[RecordKind, int] = field(default_factory=dict)

    @property
    def appointments(self) -> int:
        """How many appointments are held."""
        return sum(self.appointments_by_day.values())


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a list of changes or deletions was followed without a gap."""

    unbroken_since: datetime
    covered_until: datetime
    last_modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Covered:
    """A window of one kind as a complete read has shown it."""

    kind: RecordKind
    window_from: datetime
    window_to: datetime
    read_began_at: datetime


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of a connection before a run is planned: its size, how far it was followed, what was verified."""

    size: PracticeSize = field(default_factory=PracticeSize)
    changed: Mapping[RecordKind, Cursor] = field(default_factory=dict)
    deleted: Mapping[RecordKind, Cursor] = field(default_factory=dict)
    covered: tuple[Covered, ...] = ()
    walk_began_at: Mapping[RecordKind, datetime] = field(default_factory=dict)
