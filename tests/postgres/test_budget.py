"""The ledger of API calls: never one too many in any window, shared between processes, honest about what is left."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.domain.errors import Misconfigured
from eventsync.postgres.budget import BudgetLimits, PostgresBudget, prune_calls
from eventsync.postgres.database import Database
from eventsync.vendorkit.budget import Allowance, BudgetSpent, Purpose
from eventsync.vendorkit.waiting import WaitingBudget

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class ManualClock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def budget_of(
    pool: Database, clock: ManualClock, *, per_minute: int = 10, per_day: int | None = 500, key: str = "key-1"
) -> PostgresBudget:
    return PostgresBudget(pool, key, BudgetLimits(per_minute, per_day), clock)


async def spend(budget: PostgresBudget, calls: int, purpose: Purpose = Purpose.REFETCH) -> None:
    for _ in range(calls):
        await budget.finish(await budget.reserve(purpose))


async def refused_for(budget: PostgresBudget, purpose: Purpose, why: str) -> None:
    with pytest.raises(BudgetSpent, match=why):
        await budget.reserve(purpose)


async def wait_until_free_s(budget: PostgresBudget, purpose: Purpose = Purpose.REFETCH) -> float:
    with pytest.raises(BudgetSpent) as refusal:
        await budget.reserve(purpose)
    assert refusal.value.retry_after_s is not None
    return refusal.value.retry_after_s


async def test_the_eleventh_call_of_a_minute_waits_until_the_first_has_left_the_window(
    pool: Database, clock: ManualClock
) -> None:
    budget = budget_of(pool, clock)
    for _ in range(10):
        await spend(budget, 1)
        clock.advance(1)
    assert await wait_until_free_s(budget) == 52  # ten seconds have passed; 60 s and a margin of 2 s are kept
    clock.advance(51.999)
    await wait_until_free_s(budget)
    clock.advance(0.001)
    await spend(budget, 1)
    assert await wait_until_free_s(budget) == 1


async def test_a_call_holds_its_place_from_its_reservation_until_a_minute_after_its_answer(
    pool: Database, clock: ManualClock
) -> None:
    budget = budget_of(pool, clock, per_minute=1)
    slow = await budget.reserve(Purpose.REFETCH)
    clock.advance(25)
    await budget.finish(slow)
    clock.advance(61.9)
    await wait_until_free_s(budget)
    clock.advance(0.1)
    await spend(budget, 1)


async def test_a_call_that_was_never_answered_counts_as_spent_until_it_must_have_timed_out(
    pool: Database, clock: ManualClock
) -> None:
    budget = budget_of(pool, clock, per_minute=1)
    await budget.reserve(Purpose.REFETCH)
    assert await wait_until_free_s(budget) == 30 + 60 + 2
    clock.advance(92)
    await spend(budget, 1)


async def test_finishing_twice_does_not_hold_the_place_longer(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=1)
    reservation = await budget.reserve(Purpose.REFETCH)
    await budget.finish(reservation)
    clock.advance(30)
    await budget.finish(reservation)
    assert await wait_until_free_s(budget) == 32


async def test_one_purpose_cannot_empty_the_day(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=100, per_day=20)
    await spend(budget, 6, Purpose.MANUAL)
    assert await wait_until_free_s(budget, Purpose.MANUAL) == 86_402
    await spend(budget, 11, Purpose.REFETCH)
    await wait_until_free_s(budget, Purpose.REFETCH)
    await spend(budget, 1, Purpose.CHECK)  # a twentieth of twenty
    await wait_until_free_s(budget, Purpose.CHECK)
    await refused_for(budget, Purpose.SWEEP, "the day's API calls are spent")


async def test_the_last_calls_of_a_day_are_left_to_those_whom_a_person_waits_for(
    pool: Database, clock: ManualClock
) -> None:
    budget = budget_of(pool, clock, per_minute=1_000, per_day=100)
    await spend(budget, 60, Purpose.BACKFILL)
    await spend(budget, 25, Purpose.SWEEP)
    await refused_for(budget, Purpose.BACKFILL, "the day's API calls for backfill are spent")
    await spend(budget, 1, Purpose.SWEEP)
    await refused_for(budget, Purpose.SWEEP, "the day's API calls are spent but for those that sweep leaves to others")
    await spend(budget, 2, Purpose.REFETCH)
    await refused_for(budget, Purpose.REFETCH, "but for those that refetch leaves to others")
    await spend(budget, 12, Purpose.MANUAL)
    await refused_for(budget, Purpose.MANUAL, "the day's API calls are spent: ")


async def test_the_last_calls_of_a_minute_are_not_the_sweeps(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_day=None)
    await spend(budget, 3, Purpose.MANUAL)
    await spend(budget, 5, Purpose.SWEEP)
    await refused_for(budget, Purpose.SWEEP, "the minute's API calls are spent but for those that sweep leaves to")
    await refused_for(budget, Purpose.BACKFILL, "the minute's API calls are spent but for those that backfill leaves")
    await spend(budget, 2, Purpose.REFETCH)
    await refused_for(budget, Purpose.REFETCH, "the minute's API calls are spent: ")


async def test_a_ceiling_of_a_tiny_limit_allows_one_call(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=1, per_day=1)
    await spend(budget, 1, Purpose.BACKFILL)
    await refused_for(budget, Purpose.BACKFILL, "are spent: |for backfill are spent")


def test_an_odd_fraction_of_a_limit_is_rounded_as_people_do() -> None:
    limits = BudgetLimits(10, 100, {Purpose.SWEEP: Allowance(share=0.29, day_ceiling=0.57, minute_ceiling=0.7)})
    assert limits.share_of(Purpose.SWEEP) == 29
    assert limits.day_ceiling_of(Purpose.SWEEP) == 57
    assert limits.minute_ceiling_of(Purpose.SWEEP) == 7
    assert (limits.share_of(Purpose.MANUAL), limits.minute_ceiling_of(Purpose.MANUAL)) == (100, 10)


async def test_every_purpose_may_spend_at_least_one_call_a_day(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=100, per_day=5)
    await spend(budget, 1, Purpose.CHECK)
    await wait_until_free_s(budget, Purpose.CHECK)


async def test_without_a_daily_cap_only_the_minute_counts(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=3, per_day=None)
    for _ in range(5):
        await spend(budget, 3, Purpose.CHECK)
        clock.advance(62)
    assert (await budget.report(clock.now)).left_today is None


async def test_two_budgets_of_one_key_share_it_and_other_keys_do_not(pool: Database, clock: ManualClock) -> None:
    first, second = budget_of(pool, clock), budget_of(pool, clock)
    await spend(first, 4)
    await spend(second, 6)
    await wait_until_free_s(first)
    await wait_until_free_s(second)
    await spend(budget_of(pool, clock, key="key-2"), 10)


async def test_reservations_made_at_the_same_instant_never_exceed_the_limit(pool: Database, clock: ManualClock) -> None:
    budgets = [budget_of(pool, clock) for _ in range(4)]
    results = await asyncio.gather(
        *(budget.reserve(Purpose.REFETCH) for budget in budgets for _ in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 10
    assert all(isinstance(result, BudgetSpent) for result in results if isinstance(result, BaseException))


async def test_a_refusal_closes_the_budget_for_every_process_until_its_time(pool: Database, clock: ManualClock) -> None:
    first, second = budget_of(pool, clock), budget_of(pool, clock)
    await first.refused(120)
    await first.refused(60)  # a shorter wait that was stated meanwhile does not open it earlier
    with pytest.raises(BudgetSpent, match="the vendor has refused us"):
        await second.reserve(Purpose.REFETCH)
    assert await wait_until_free_s(second) == 120
    report = await second.report(clock.now)
    assert (report.closed_until, report.refusals) == (START + timedelta(seconds=120), 2)
    clock.advance(120)
    await spend(second, 1)


async def test_refusals_are_counted_in_a_row_and_a_later_success_starts_anew(
    pool: Database, clock: ManualClock
) -> None:
    budget = budget_of(pool, clock)
    for refusals in (1, 2, 3):
        await spend(budget, 1)
        await budget.refused(60)  # as the client does it: the answer ends the call, then it turns out to be a 429
        assert (await budget.report(clock.now)).refusals == refusals
        clock.advance(60)
    await spend(budget, 1)
    await spend(budget, 1)
    assert (await budget.report(clock.now)).refusals == 0


async def test_an_absurd_wait_closes_the_budget_for_little_more_than_a_day(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock)
    await budget.refused(1e12)
    assert await wait_until_free_s(budget) == 25 * 3600


async def test_the_report_tells_what_was_spent_by_purpose_and_what_is_left(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock)
    await spend(budget, 3, Purpose.SWEEP)
    clock.advance(3600)
    await spend(budget, 2, Purpose.MANUAL)
    report = await budget.report(clock.now)
    assert report.spent_last_minute == {Purpose.MANUAL: 2}
    assert report.spent_last_day == {Purpose.MANUAL: 2, Purpose.SWEEP: 3}
    assert (report.left_this_minute, report.left_today, report.closed_until) == (8, 495, None)
    left = {"refetch": 300, "sweep": 425, "manual": 148, "backfill": 300, "check": 25, "delivery": 495}
    assert report.left_by_purpose == left


async def test_what_is_left_for_a_purpose_ends_at_its_ceiling(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=1_000, per_day=20)
    await spend(budget, 12, Purpose.BACKFILL)
    await spend(budget, 4, Purpose.SWEEP)
    left = (await budget.report(clock.now)).left_by_purpose
    assert left == {"refetch": 1, "sweep": 1, "manual": 4, "backfill": 0, "check": 1, "delivery": 4}
    for purpose in Purpose:
        ledger = budget_of(pool, clock, per_minute=1_000, per_day=20, key=purpose.value)
        await spend(ledger, 12, Purpose.BACKFILL)
        await spend(ledger, 4, Purpose.SWEEP)
        await spend(ledger, left[purpose.value], purpose)
        await wait_until_free_s(ledger, purpose)


async def test_a_run_waits_through_the_minutes_and_stops_where_the_day_is_spent(
    pool: Database, clock: ManualClock
) -> None:
    pauses: list[float] = []

    async def pause(wait_s: float) -> None:
        pauses.append(wait_s)
        clock.advance(wait_s)

    run = WaitingBudget(budget_of(pool, clock, per_day=40), pause=pause)
    for _ in range(34):  # a sweep's share of the day, eight a minute
        await run.finish(await run.reserve(Purpose.SWEEP))
    with pytest.raises(BudgetSpent) as stopped:
        await run.reserve(Purpose.SWEEP)
    assert (run.calls, run.waited_s) == (34, 4 * 62.0)
    assert pauses == [62.0] * 4
    assert stopped.value.retry_after_s == 86_402 - 4 * 62


async def test_the_next_days_run_goes_at_the_pace_of_the_days_before(pool: Database, clock: ManualClock) -> None:
    async def pause(wait_s: float) -> None:
        clock.advance(wait_s)

    async def walk() -> None:
        run = WaitingBudget(budget_of(pool, clock, per_day=40), pause=pause)
        for _ in range(34):
            await run.finish(await run.reserve(Purpose.SWEEP))

    await walk()
    clock.now = START + timedelta(days=1)
    await walk()
    assert clock.now - START < timedelta(days=1, minutes=6)


async def test_pruning_frees_no_place(pool: Database, clock: ManualClock) -> None:
    budget = budget_of(pool, clock, per_minute=10, per_day=1)
    await spend(budget, 1)
    clock.advance(86_401)
    await prune_calls(pool, clock.now)
    await wait_until_free_s(budget)
    clock.advance(2 * 86_400)
    await prune_calls(pool, clock.now)
    assert (await budget.report(clock.now)).spent_last_day == {}
    async with pool.session() as session:
        assert await session.fetchval("SELECT count(*) FROM api_calls") == 0


@pytest.mark.parametrize(("per_minute", "per_day"), [(0, 500), (-1, 500), (10, 0)])
def test_a_limit_below_one_is_refused(per_minute: int, per_day: int) -> None:
    with pytest.raises(Misconfigured, match="at least 1"):
        BudgetLimits(per_minute, per_day)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is wanted `pause_s` after the one before; the vendor sees it `seen_at` of its way through."""

    pause_s: float
    lasts_s: float
    seen_at: float
    by: int
    crashes: bool


CALLS = st.builds(
    Call,
    pause_s=st.floats(0, 40),
    lasts_s=st.floats(0, 30),
    seen_at=st.floats(0, 1),
    by=st.integers(0, 1),
    crashes=st.booleans(),
)


@given(per_minute=st.integers(1, 4), calls=st.lists(CALLS, min_size=8, max_size=24))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_minute_that_the_vendor_could_count_ever_holds_more_than_the_limit(
    pool: Database, per_minute: int, calls: list[Call]
) -> None:
    clock, key = ManualClock(), uuid4().hex
    budgets = [budget_of(pool, clock, per_minute=per_minute, per_day=None, key=key) for _ in range(2)]
    seen: list[datetime] = []
    unanswered: list[tuple[datetime, int, PostgresBudget]] = []

    async def move(seconds: float) -> None:
        until = clock.now + timedelta(seconds=seconds)
        for answered_at, reservation, budget in sorted(unanswered, key=lambda entry: entry[:2]):
            if answered_at <= until:
                clock.now = answered_at
                await budget.finish(reservation)  # type: ignore[arg-type]  # a NewType that passed through a list
                unanswered.remove((answered_at, reservation, budget))
        clock.now = until

    for call in calls:
        await move(call.pause_s)
        budget = budgets[call.by]
        try:
            reservation = await budget.reserve(Purpose.REFETCH)
        except BudgetSpent as spent:
            await move(spent.retry_after_s or 0.0)
            try:
                reservation = await budget.reserve(Purpose.REFETCH)
            except BudgetSpent:
                continue  # answers that came late have prolonged the wait
        seen.append(clock.now + timedelta(seconds=call.lasts_s * call.seen_at))
        if not call.crashes:
            unanswered.append((clock.now + timedelta(seconds=call.lasts_s), reservation, budget))
    seen.sort()
    for first, next_after in zip(seen, seen[per_minute:], strict=False):
        assert next_after - first > timedelta(seconds=60)


FRACTIONS = st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.9, 1.0])
ALLOWANCES = st.fixed_dictionaries(
    {purpose: st.builds(Allowance, FRACTIONS, FRACTIONS, FRACTIONS) for purpose in Purpose}
)
LEDGER_WINDOWS = (timedelta(seconds=62), timedelta(seconds=86_402))


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that is wanted `pause_s` after the one before; one that `crashes` is never answered."""

    pause_s: float
    purpose: Purpose
    crashes: bool


@dataclass(slots=True)
class LedgerModel:
    """What the ledger must say, told by counting the calls of every window."""

    limits: BudgetLimits
    calls: list[tuple[datetime, Purpose]]  # when each has ended, and its purpose

    def has_place(self, purpose: Purpose, now: datetime) -> bool:
        minute, day = ([kind for ended_at, kind in self.calls if ended_at + window > now] for window in LEDGER_WINDOWS)
        return (
            len(minute) < self.limits.minute_ceiling_of(purpose)
            and len(day) < self.limits.day_ceiling_of(purpose)
            and day.count(purpose) < (self.limits.share_of(purpose))
        )

    def first_place(self, purpose: Purpose, now: datetime) -> datetime:
        moments = sorted({now, *(ended_at + window for ended_at, _ in self.calls for window in LEDGER_WINDOWS)})
        return next(moment for moment in moments if moment >= now and self.has_place(purpose, moment))


WISHES = st.builds(
    Wish,
    pause_s=st.one_of(st.integers(0, 30), st.integers(0, 40_000)),
    purpose=st.sampled_from(Purpose),
    crashes=st.booleans(),
)


@given(
    per_minute=st.integers(1, 6),
    per_day=st.one_of(st.none(), st.integers(1, 12)),
    allowances=ALLOWANCES,
    wishes=st.lists(WISHES, min_size=6, max_size=24),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_shares_and_ceilings_hold_in_any_order_and_a_refusal_names_the_first_free_moment(
    pool: Database,
    per_minute: int,
    per_day: int | None,
    allowances: dict[Purpose, Allowance],
    wishes: list[Wish],
) -> None:
    clock = ManualClock()
    limits = BudgetLimits(per_minute, per_day, allowances)
    budget = PostgresBudget(pool, uuid4().hex, limits, clock)
    model = LedgerModel(limits, [])
    for wish in wishes:
        clock.advance(wish.pause_s)
        free_at = model.first_place(wish.purpose, clock.now)
        if free_at > clock.now:
            assert timedelta(seconds=await wait_until_free_s(budget, wish.purpose)) == free_at - clock.now
            clock.now = free_at
        reservation = await budget.reserve(wish.purpose)
        if not wish.crashes:
            await budget.finish(reservation)
        model.calls.append((clock.now + timedelta(seconds=30 * wish.crashes), wish.purpose))


@given(spenders=st.lists(st.sampled_from([Purpose.SWEEP, Purpose.BACKFILL, Purpose.REFETCH]), max_size=120))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_manual_refreshes_find_what_the_ceilings_keep_for_them_whatever_runs_and_webhooks_spend(
    pool: Database, spenders: list[Purpose]
) -> None:
    clock = ManualClock()
    budget = budget_of(pool, clock, per_minute=1_000, per_day=100, key=uuid4().hex)
    for purpose in [*spenders, *[Purpose.SWEEP] * 100, *[Purpose.REFETCH] * 100]:
        with contextlib.suppress(BudgetSpent):
            await budget.reserve(purpose)
    await spend(budget, 3, Purpose.MANUAL)  # of 100: what is above the highest of their ceilings
