"""What lists of whole days prove about moments: the vendor's midnight is unknown, so a list claims less than it tells.

A day of an unknown zone begins up to twelve hours after UTC's and ends up to fourteen before it. So a list of the days
from `first` to `last` proves what lies from the end of the first to the beginning of the last, in UTC. Two lists of
neighbouring days, read under the same midnight, prove what lies between them as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DaysRead:
    """The days from `first` to `last`, both included, listed completely by a read that began at `began_at`."""

    first: date
    last: date
    began_at: datetime


@dataclass(frozen=True, slots=True)
class Proved:
    """Every moment from `start` on and before `end`, as it stood at `began_at`."""

    start: datetime
    end: datetime
    began_at: datetime


def proved_by(days: DaysRead) -> tuple[Proved, ...]:
    """Tell what one list proves; nothing where it is of less than three days."""
    start, end = _midnight(days.first + _DAY), _midnight(days.last)
    return (Proved(start, end, days.began_at),) if start < end else ()


def joined(lists: Iterable[DaysRead]) -> tuple[Proved, ...]:
    """Tell what lists prove together, each run of neighbouring days as one, as of its earliest read."""
    runs: list[DaysRead] = []
    for days in sorted(lists, key=lambda entry: entry.first):
        if runs and days.first <= runs[-1].last + _DAY:
            runs[-1] = _together(runs[-1], days)
        else:
            runs.append(days)
    return tuple(proved for days in runs for proved in proved_by(days))


def is_proved(days: DaysRead, proved: Iterable[Proved]) -> bool:
    """Whether all that these days would prove has been proved already, piece by piece."""
    wanted = proved_by(days)
    if not wanted:
        return False
    reached = wanted[0].start
    for piece in sorted(proved, key=lambda entry: entry.start):
        if piece.start <= reached:
            reached = max(reached, piece.end)
    return reached >= wanted[0].end


def _together(earlier: DaysRead, later: DaysRead) -> DaysRead:
    return DaysRead(earlier.first, max(earlier.last, later.last), min(earlier.began_at, later.began_at))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
