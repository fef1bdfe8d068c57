"""What a day of runs costs of the vendor's calls, how often a sweep is due, and what to expect of a practice. Pure.

The daily run reads everything and sweeps read what changed; both keep away from what the day's other calls need.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from operator import itemgetter

from eventsync.domain.call_plan import DELETED_CLIENTS_AFTER, VERIFY_NEAR_AFTER, full_plan, near_read
from eventsync.domain.reads import Covers, Knowledge, PlannedRead, PracticeSize
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import DEFAULT_RULES, ReadingRules, rows_between

_TARGET = 0.55  # of the day's calls: planned so that a busier day than expected stays below 60% as well
_BESIDE_LISTS = 8  # of the daily run: practitioners, invoices, intakes and notes, and records read one by one
_FEWEST_SWEEPS, _MOST_SWEEPS = 12, 96
_SWEEPS_WITHOUT_DAILY_CAP = 288  # every five minutes
_MORNING, _EVENING = time(6), time(20)  # local
_HOURS_BY_DAY, _HOURS_BY_NIGHT = 14, 10
_DENSITY_BY_NIGHT = 1 / 3  # of the sweeps between morning and evening, where calls are scarce
_DAYS_LISTED = 2  # by a list of changes, whose filter knows whole days only: yesterday and today
_DAY = timedelta(days=1)
_NEAR_CHECKS_PER_DAY = _DAY // VERIFY_NEAR_AFTER
_DELETED_CLIENTS_PER_DAY = _DAY // DELETED_CLIENTS_AFTER


@dataclass(frozen=True, slots=True)
class Demand:
    """What a day's calls are needed for beside runs. `refetches` of None: one for each appointment of a day.

    (A note or an intake form, of which a webhook names only the id, comes with about each of them.)
    """

    manual_refreshes: int = 20
    calls_per_manual_refresh: int = 3
    refetches: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """A day's calls on one connection; `calls_per_day` of None means no daily cap.

    `full_run` is what reading everything costs, `daily_run` what the daily run may spend of that in one day. `sweep`
    is the cost of one, and `near_check` that of verifying today and tomorrow in it, as changes_plan's `spare_calls`: 0
    where the day has no room for it. `beside_lists` is what the daily run needs beside clients and appointments.
    `deleted_clients`, `manual` and `refetches` are calls a day. `days_to_verify_everything` is how many daily runs a
    full run takes, a day or two more as the window moves on meanwhile, and one more a week; None where it never gets
    through.
    """

    calls_per_day: int | None
    full_run: int
    daily_run: int
    sweep: int
    sweeps_per_day: int
    near_check: int
    beside_lists: int
    deleted_clients: int
    manual: int
    refetches: int
    days_to_verify_everything: int | None

    @property
    def total(self) -> int:
        """All calls of the day."""
        sweeps = self.sweep * self.sweeps_per_day + self.near_check * _NEAR_CHECKS_PER_DAY + self.deleted_clients
        return self.daily_run + self.beside_lists + sweeps + self.manual + self.refetches

    @property
    def fraction_of_day(self) -> float | None:
        """The day's calls as a fraction of those allowed; None without a daily cap."""
        return None if self.calls_per_day is None else self.total / self.calls_per_day

    @property
    def sweeps_by_night(self) -> int:
        """How many of the sweeps are due between 20:00 and 6:00."""
        night = _HOURS_BY_NIGHT * (1.0 if self.calls_per_day is None else _DENSITY_BY_NIGHT)
        return max(1, round(self.sweeps_per_day * night / (_HOURS_BY_DAY + night)))


def plan_of_day(
    size: PracticeSize,
    calls_per_day: int | None,
    today: date,
    *,
    demand: Demand | None = None,
    sweep_ceiling: float = 0.86,
    rules: ReadingRules = DEFAULT_RULES,
) -> CallPlan:
    """Plan a day's calls: as many sweeps, 12 to 96, as keep all of it well below 60% of `calls_per_day`.

    Where the practice is too large for that, 12 sweeps are kept, and the daily run takes what is left below
    `sweep_ceiling`, the fraction of the day at which runs stop; then a full run takes several days. Without a daily
    cap a sweep is due every five minutes.
    """
    reads = full_plan(Knowledge(size=size), today, datetime.combine(today, time(), UTC), rules)
    full_run = sum(read.expected_calls for read in reads)
    demand = demand or Demand()
    refetches = _appointments_a_day(size, today, rules) if demand.refetches is None else demand.refetches
    plan = CallPlan(
        calls_per_day=calls_per_day,
        full_run=full_run,
        daily_run=full_run,
        sweep=_calls_of_sweep(size, rules),
        sweeps_per_day=_SWEEPS_WITHOUT_DAILY_CAP,
        near_check=near_read(size, today, rules).expected_calls,
        beside_lists=_BESIDE_LISTS,
        deleted_clients=_calls_of_deletions(size, RecordKind.PATIENT, rules) * _DELETED_CLIENTS_PER_DAY,
        manual=demand.manual_refreshes * demand.calls_per_manual_refresh,
        refetches=refetches,
        days_to_verify_everything=1,
    )
    return plan if calls_per_day is None else _within(plan, calls_per_day, sweep_ceiling, reads)


def next_sweep_at(plan: CallPlan, now: datetime, zone: tzinfo) -> datetime:
    """Tell when the next sweep after `now` is due, in UTC.

    The sweeps of a day, and those of a night, are evenly spaced between 6:00 and 20:00 of `zone`, however many hours
    the night of a clock change has.
    """
    turns = _turns(now.astimezone(zone).date(), zone)
    following = bisect_right(turns, now, key=itemgetter(0))
    (begins, is_night), (ends, _) = turns[following - 1], turns[following]
    sweeps = plan.sweeps_by_night if is_night else plan.sweeps_per_day - plan.sweeps_by_night
    interval = (ends - begins) / sweeps
    number = (now - begins) // interval + 1
    return begins + number * interval if number < sweeps else ends


def _within(plan: CallPlan, calls_per_day: int, sweep_ceiling: float, reads: Sequence[PlannedRead]) -> CallPlan:
    """Fit `plan` into a day."""
    others = plan.beside_lists + plan.deleted_clients + plan.manual + plan.refetches
    room = math.ceil(_TARGET * calls_per_day) - 1 - plan.full_run - others
    near_check = plan.near_check
    if room - near_check * _NEAR_CHECKS_PER_DAY < _FEWEST_SWEEPS * plan.sweep:
        near_check = 0
    sweeps = (room - near_check * _NEAR_CHECKS_PER_DAY) // plan.sweep
    sweeps = min(_MOST_SWEEPS, max(_FEWEST_SWEEPS, sweeps))
    others += near_check * _NEAR_CHECKS_PER_DAY + sweeps * plan.sweep
    left = max(0, int(sweep_ceiling * calls_per_day) - others)
    return replace(
        plan,
        daily_run=min(plan.full_run, left),
        sweeps_per_day=sweeps,
        near_check=near_check,
        days_to_verify_everything=_runs_needed(reads, left),
    )


def _runs_needed(reads: Sequence[PlannedRead], calls_per_run: int) -> int | None:
    """Count the runs of `calls_per_run` until each of `reads` came to its end; None where that never happens.

    What comes first is read by every run. A list of clients goes on where it was left, a slice begins anew.
    """
    last_of_every_run = max(number for number, read in enumerate(reads) if read.covers is Covers.DELETIONS)
    per_run = calls_per_run - sum(read.expected_calls for read in reads[: last_of_every_run + 1])
    runs, left = 1, per_run
    for read in reads[last_of_every_run + 1 :]:
        calls, goes_on = read.expected_calls, read.covers is Covers.EVERYTHING
        if per_run < (1 if goes_on else calls):
            return None
        while calls > left:
            calls -= left if goes_on else 0
            runs, left = runs + 1, per_run
        left -= calls
    return runs


def _calls_of_sweep(size: PracticeSize, rules: ReadingRules) -> int:
    changes = sum(
        rules.calls_for(math.ceil(size.changes_per_day.get(kind, 0.0) * _DAYS_LISTED))
        for kind in (RecordKind.APPOINTMENT, RecordKind.PATIENT)
    )
    return changes + _calls_of_deletions(size, RecordKind.APPOINTMENT, rules)


def _calls_of_deletions(size: PracticeSize, kind: RecordKind, rules: ReadingRules) -> int:
    return rules.calls_for(size.deleted_lately.get(kind, 0))


def _appointments_a_day(size: PracticeSize, today: date, rules: ReadingRules) -> int:
    first_day, last_day = rules.first_day(today), rules.last_day(today)
    return math.ceil(rows_between(size, first_day, last_day) / ((last_day - first_day).days + 1))


def _turns(today: date, zone: tzinfo) -> list[tuple[datetime, bool]]:
    """List the mornings and evenings around `today`, in UTC, each with whether a night begins with it."""
    turns = {
        datetime.combine(today + number * _DAY, moment, zone).astimezone(UTC): moment == _EVENING
        for number in range(-2, 3)
        for moment in (_MORNING, _EVENING)
    }
    return sorted(turns.items())
