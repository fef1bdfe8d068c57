"""A schedule on the wall clock of a time zone, right across clock changes: when it was due last, and is due next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from eventsync.domain.errors import Misconfigured

_FIELDS = 5  # minute, hour, day, month, weekday
_LONGEST_EXPRESSION = 100
_LEAST_APART = timedelta(hours=1)
_LOOKED_AT = 50  # times of a schedule, to see how often it comes
_ANY_DAY = datetime(2026, 1, 1)  # noqa: DTZ001  # a time on a wall clock has no zone
_CLOCK_CHANGE = timedelta(hours=3)  # more than any of our days


@dataclass(frozen=True, slots=True)
class DailySchedule:
    """A cron expression, read on the wall clock of `zone`; `parse` makes it.

    Every time on the wall clock is one moment, whatever the expression looks like: the first of two where the clock is
    set back, and as much later as the clock is set forward where it leaves that time out.
    """

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, zone: ZoneInfo) -> DailySchedule:
        """Read an expression of five fields. Raises Misconfigured for what is none, or comes twice within an hour."""
        walls = _first_walls(expression)
        if not walls:
            raise Misconfigured(
                "a schedule is minute, hour, day, month and weekday as cron writes them, on the clock of the"
                ' connection\'s time zone: give "0 3 * * *" for 3:00 each day'
            )
        if any(later - earlier < _LEAST_APART for earlier, later in pairwise(walls)):
            raise Misconfigured(
                'a schedule comes at most once an hour: name one minute, as in "0 3 * * *" for 3:00 each day'
            )
        return cls(expression, zone)

    def last_due(self, now: datetime) -> datetime | None:
        """Answer the latest time up to `now`, in UTC; None where there was none for fifty years."""
        walls = self._walls(now + _CLOCK_CHANGE, reverse=True)
        return next((due for wall in walls if (due := self._moment(wall)) <= now), None)

    def next_due(self, now: datetime) -> datetime | None:
        """Answer the first time after `now`, in UTC; None where there is none for fifty years."""
        walls = self._walls(now - _CLOCK_CHANGE, reverse=False)
        return next((due for wall in walls if (due := self._moment(wall)) > now), None)

    def _walls(self, start: datetime, *, reverse: bool) -> Iterator[datetime]:
        # A time without a zone keeps cronsim from its own way with clock changes, which depends on the expression.
        wall = start.astimezone(self.zone).replace(tzinfo=None, fold=0)
        return CronSim(self.expression, wall, reverse=reverse)

    def _moment(self, wall: datetime) -> datetime:
        return wall.replace(tzinfo=self.zone).astimezone(UTC)


def _first_walls(expression: str) -> list[datetime]:
    if len(expression) > _LONGEST_EXPRESSION or len(expression.split()) != _FIELDS:
        return []
    try:
        return list(islice(CronSim(expression, _ANY_DAY), _LOOKED_AT))
    except CronSimError:
        return []
