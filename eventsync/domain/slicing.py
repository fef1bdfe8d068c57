"""How the days of a practice are cut into slices that are read one by one, and what reading them costs. Pure.

A slice is what has to be read again where a run ends within it; the call plan puts slices into an order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from eventsync.domain.reads import Covered, PracticeSize
from eventsync.domain.records import RecordKind

_PAGES_PER_SLICE = 20
_DAY = timedelta(days=1)
_NEAREST = timedelta(days=2)  # what a list of it proves is today and tomorrow, first of all
_NEAR = timedelta(days=7)
_MONTH = timedelta(days=30)
_BLOCK_DAYS = 64  # a slice is such a block of the calendar, or a half, a quarter ... of one
_PAST_IS_FARTHER_BY_DAYS = 7  # who needs the copy looks ahead: the day before yesterday comes after the next week


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """Which days are read in full, counted from today, and how the vendor's lists behave.

    One more day is read on either side, since the vendor's midnight is not known. Raises ValueError for a negative
    number of days or a page of no rows.
    """

    days_back: int = 90
    days_ahead: int = 90
    rows_per_page: int = 100
    deletions_told_for: timedelta = timedelta(days=10)

    def __post_init__(self) -> None:
        if self.days_back < 0 or self.days_ahead < 0 or self.rows_per_page < 1:
            raise ValueError("days_back and days_ahead must be at least 0, and rows_per_page at least 1")

    def first_day(self, today: date) -> date:
        """Name the first day that is read."""
        return today - (self.days_back + 1) * _DAY

    def last_day(self, today: date) -> date:
        """Name the last day that is read."""
        return today + (self.days_ahead + 1) * _DAY

    def calls_for(self, rows: int) -> int:
        """Count the calls of a list: a last page that is full does not tell that it is the last."""
        return rows // self.rows_per_page + 1


DEFAULT_RULES = ReadingRules()


@dataclass(frozen=True, slots=True)
class Slice:
    """Days that are read as one list, both included, and how many appointments they are known to hold.

    `distance_days` is how far they are from today; the past is a week farther than the future.
    """

    first_day: date
    last_day: date
    rows: int
    distance_days: int

    @property
    def is_near(self) -> bool:
        """Whether it lies between yesterday and the next week, which every full run reads first."""
        return self.distance_days <= _NEAR.days


def slices_of(size: PracticeSize, today: date, rules: ReadingRules) -> tuple[Slice, ...]:
    """Cut the window into slices of at most about twenty pages, from near to far.

    They tile the window, first and last day included; a single day is never cut. Their borders are the calendar's,
    but for those of the near days: as the days go by a slice stays the same, so that what was read of it counts.
    """
    is_known = rows_between(size, rules.first_day(today), rules.last_day(today)) > 0
    borders = _cut(size, today, rules) if is_known else _zones(today, rules)
    slices = [_slice(first, last, size, today) for first, last in borders if first <= last]
    return tuple(sorted(slices, key=lambda piece: (piece.distance_days, piece.first_day)))


def rows_between(size: PracticeSize, first_day: date, last_day: date) -> int:
    """Count the appointments of these days, both included."""
    return sum(size.appointments_by_day.get(day, 0) for day in _days(first_day, last_day))


def verified_by_day(covered: Iterable[Covered], first_day: date, last_day: date) -> dict[date, datetime]:
    """Tell of each day in UTC when the latest complete list of appointments that holds all of it was begun."""
    verified: dict[date, datetime] = {}
    for window in covered:
        if window.kind is RecordKind.APPOINTMENT:
            for day in _whole_days(window, first_day, last_day):
                verified[day] = max(window.read_began_at, verified.get(day, window.read_began_at))
    return verified


def verified_on(piece: Slice, verified: Mapping[date, datetime]) -> date:
    """Tell since when half of the slice's days are verified: date.min where half of them never were.

    A slice's edge, or the day by which the window has moved on, does not make all of it look unread.
    """
    moments = sorted(
        verified[day].astimezone(UTC).date() if day in verified else date.min
        for day in _days(piece.first_day, piece.last_day)
    )
    return moments[(len(moments) - 1) // 2]


def _zones(today: date, rules: ReadingRules) -> Iterator[tuple[date, date]]:
    """Yield zones of a practice that is not known yet, first and last day included."""
    first, last = rules.first_day(today), rules.last_day(today)
    month_ago, month_ahead = today - _MONTH, today + _MONTH
    yield today - _DAY, min(today + _NEAREST, last)
    yield today + _NEAREST + _DAY, min(today + _NEAR, last)
    yield today + _NEAR + _DAY, min(month_ahead, last)
    yield max(month_ago, first), today - 2 * _DAY
    yield month_ahead + _DAY, last
    yield first, month_ago - _DAY


def _cut(size: PracticeSize, today: date, rules: ReadingRules) -> Iterator[tuple[date, date]]:
    """Yield slices of a practice that is known, the near days apart from the others."""
    first, last = rules.first_day(today), rules.last_day(today)
    near_first, near_last = today - _DAY, min(today + _NEAR, last)
    most_rows = _PAGES_PER_SLICE * rules.rows_per_page - 1  # one more would cost a page more

    def halve(begin: date, days: int, low: date, high: date) -> Iterator[tuple[date, date]]:
        """Halve a block until what of it lies between `low` and `high` is small enough."""
        inside = max(begin, low), min(begin + (days - 1) * _DAY, high)
        if inside[0] > inside[1]:
            return
        if days == 1 or rows_between(size, *inside) <= most_rows:
            yield inside
        else:
            yield from halve(begin, days // 2, low, high)
            yield from halve(begin + days // 2 * _DAY, days - days // 2, low, high)

    yield from halve(near_first, (near_last - near_first).days + 1, near_first, near_last)
    for ordinal in range(first.toordinal() // _BLOCK_DAYS * _BLOCK_DAYS, last.toordinal() + 1, _BLOCK_DAYS):
        begin = date.fromordinal(ordinal)
        yield from halve(begin, _BLOCK_DAYS, first, near_first - _DAY)
        yield from halve(begin, _BLOCK_DAYS, near_last + _DAY, last)


def _slice(first: date, last: date, size: PracticeSize, today: date) -> Slice:
    is_past = first < today - _DAY  # yesterday begins the nearest slice
    behind_days = (today - last).days + _PAST_IS_FARTHER_BY_DAYS
    return Slice(first, last, rows_between(size, first, last), behind_days if is_past else max(0, (first - today).days))


def _whole_days(window: Covered, first_day: date, last_day: date) -> Iterator[date]:
    for day in _days(first_day, last_day):
        midnight = datetime.combine(day, time(), UTC)
        if window.window_from <= midnight and midnight + _DAY <= window.window_to:
            yield day


def _days(first_day: date, last_day: date) -> Iterator[date]:
    return (first_day + number * _DAY for number in range((last_day - first_day).days + 1))
