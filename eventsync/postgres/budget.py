"""The ledger behind `vendorkit.budget.Budget`: one API key's calls, shared by every process that spends them.

Windows slide: a call holds its place until a minute (and a day) after its *end*, so the vendor's minute or day may
begin at any time, and a slow call cannot slip into the next one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements
from eventsync.vendorkit.budget import DEFAULT_ALLOWANCES, Allowance, BudgetSpent, Purpose, ReservationId

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_LONGEST_CALL = timedelta(minutes=5)  # how far before a window the ledger is searched for calls that end in it
_KEPT = timedelta(days=2)
_LONGEST_CLOSURE_S = 90_000.0  # 25 hours: no vendor's window is longer than a day
_NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class _Sql:
    lock_ledger: str
    find_places: str
    insert_call: str
    finish_call: str
    close: str
    forget_closure: str
    count_spent: str
    load_closure: str
    prune_calls: str


SQL = load_statements(_Sql, "budget.sql")


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """What one API key allows. `calls_per_day` of None means no daily cap; then only the minute counts.

    `allowances` say what each purpose may take of it (everything where missing). `margin_s` covers clocks that differ
    and calls that travel; `request_timeout_s` is how long a call can last at most.
    """

    calls_per_minute: int
    calls_per_day: int | None
    allowances: Mapping[Purpose, Allowance] = field(default_factory=lambda: DEFAULT_ALLOWANCES)
    margin_s: float = 2.0
    request_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.calls_per_minute < 1 or (self.calls_per_day is not None and self.calls_per_day < 1):
            raise Misconfigured("calls_per_minute and calls_per_day must be at least 1")

    def share_of(self, purpose: Purpose) -> int:
        """How many calls a day the purpose may spend."""
        return _part_of(self.calls_per_day, self._allowance(purpose).share)

    def day_ceiling_of(self, purpose: Purpose) -> int:
        """How many calls the day may hold, all purposes together, the purpose's next one included."""
        return _part_of(self.calls_per_day, self._allowance(purpose).day_ceiling)

    def minute_ceiling_of(self, purpose: Purpose) -> int:
        """How many calls the minute may hold, all purposes together, the purpose's next one included."""
        return _part_of(self.calls_per_minute, self._allowance(purpose).minute_ceiling)

    def _allowance(self, purpose: Purpose) -> Allowance:
        return self.allowances.get(purpose, Allowance())


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """What was spent, by purpose, in the last minute and day, and what is left of both (None: no daily cap).

    `left_by_purpose` is what each purpose may still spend today if no other spends anything; it is empty without a
    daily cap. `closed_until` is set while the vendor's refusal stands; `refusals` counts those in a row.
    """

    spent_last_minute: Mapping[str, int]
    spent_last_day: Mapping[str, int]
    left_this_minute: int
    left_today: int | None
    closed_until: datetime | None
    refusals: int
    left_by_purpose: Mapping[str, int] = field(default_factory=dict)


class PostgresBudget:
    """One API key's allowance, kept in PostgreSQL; several connections may share a key and thereby its ledger."""

    def __init__(self, database: Database, key_fingerprint: str, limits: BudgetLimits, clock: Clock) -> None:
        self._database = database
        self._key_fingerprint = key_fingerprint
        self._limits = limits
        self._clock = clock

    async def reserve(self, purpose: Purpose) -> ReservationId:
        """Reserve one call. Raises BudgetSpent with `retry_after_s` when there is no place for it."""
        async with self._database.transaction() as session:
            await session.execute(SQL.lock_ledger, self._key_fingerprint)
            now = self._clock()  # read under the lock, so that reservations are in the order of their times
            await self._require_place(session, purpose, now)
            identifier = await session.fetchval(SQL.insert_call, self._key_fingerprint, purpose.value, now)
        return ReservationId(identifier)

    async def finish(self, reservation: ReservationId) -> None:
        """Note that the call has been answered: its place in the vendor's minute starts no later than now."""
        async with self._database.session() as session:
            await session.execute(SQL.finish_call, reservation, self._clock())

    async def refused(self, retry_after_s: float) -> None:
        """Note the vendor's 429: no call before `retry_after_s` seconds are over, in no process."""
        until = self._clock() + timedelta(seconds=min(max(retry_after_s, 0.0), _LONGEST_CLOSURE_S))
        async with self._database.session() as session:
            await session.execute(SQL.close, self._key_fingerprint, until)

    async def report(self, now: datetime) -> BudgetReport:
        """Tell what was spent and what is left."""
        async with self._database.session() as session:
            spent = await session.fetch(
                SQL.count_spent,
                self._key_fingerprint,
                self._limits.request_timeout_s,
                now - self._day - _LONGEST_CALL,
                now - self._day,
                now - self._minute,
            )
            closure = await session.fetchrow(SQL.load_closure, self._key_fingerprint)
        return self._report(spent, closure, now)

    @property
    def _minute(self) -> timedelta:
        return _MINUTE + timedelta(seconds=self._limits.margin_s)

    @property
    def _day(self) -> timedelta:
        return _DAY + timedelta(seconds=self._limits.margin_s)

    async def _require_place(self, session: Session, purpose: Purpose, now: datetime) -> None:
        limits = self._limits
        longest_window = self._minute if limits.calls_per_day is None else self._day
        places = await session.fetchrow(
            SQL.find_places,
            self._key_fingerprint,
            limits.request_timeout_s,
            now - longest_window - _LONGEST_CALL,
            limits.minute_ceiling_of(purpose),
            limits.day_ceiling_of(purpose),
            purpose.value,
            limits.share_of(purpose),
        )
        self._refuse_where_full(places, purpose, now)
        if places["closed_until"] is not None:
            await session.execute(SQL.forget_closure, self._key_fingerprint, now)

    def _refuse_where_full(self, places: Any, purpose: Purpose, now: datetime) -> None:
        limits, kept = self._limits, f" but for those that {purpose.value} leaves to others"
        minute_kept = kept if limits.minute_ceiling_of(purpose) < limits.calls_per_minute else ""
        day_kept = kept if limits.calls_per_day and limits.day_ceiling_of(purpose) < limits.calls_per_day else ""
        waits = [
            (places["closed_until"], timedelta(0), "the vendor has refused us for its own limit"),
            (places["minute_taken_by"], self._minute, f"the minute's API calls are spent{minute_kept}"),
            (places["day_taken_by"], self._day, f"the day's API calls are spent{day_kept}"),
            (places["share_taken_by"], self._day, f"the day's API calls for {purpose.value} are spent"),
        ]
        free = [(since + window, why) for since, window, why in waits if since is not None]
        free_at, why = max(free, default=(now, ""))
        if free_at > now:
            raise BudgetSpent(f"{why}: see `eventsync budget`", retry_after_s=(free_at - now).total_seconds())

    def _report(self, spent: list[Any], closure: Any, now: datetime) -> BudgetReport:
        by_minute = {row["purpose"]: row["minute"] for row in spent if row["minute"]}
        by_day = {row["purpose"]: row["day"] for row in spent}
        per_day = self._limits.calls_per_day
        return BudgetReport(
            spent_last_minute=by_minute,
            spent_last_day=by_day,
            left_this_minute=max(0, self._limits.calls_per_minute - sum(by_minute.values())),
            left_today=None if per_day is None else max(0, per_day - sum(by_day.values())),
            closed_until=closure["closed_until"] if closure and closure["closed_until"] > now else None,
            refusals=closure["refusals"] if closure else 0,
            left_by_purpose={} if per_day is None else self._left_by_purpose(by_day),
        )

    def _left_by_purpose(self, by_day: Mapping[str, int]) -> dict[str, int]:
        limits, spent = self._limits, sum(by_day.values())
        return {
            purpose.value: max(
                0,
                min(
                    limits.share_of(purpose) - by_day.get(purpose.value, 0),
                    limits.day_ceiling_of(purpose) - spent,
                ),
            )
            for purpose in Purpose
        }


async def prune_calls(database: Database, now: datetime) -> None:
    """Remove from every key's ledger what no window needs any more."""
    async with database.session() as session:
        await session.execute(SQL.prune_calls, now - _KEPT)


def _part_of(limit: int | None, fraction: float) -> int:
    if limit is None:
        return _NO_LIMIT
    # An odd fraction such as 0.29 of 100 is a whisker below its whole number in binary.
    return min(limit, max(1, math.floor(limit * fraction + 1e-9)))
