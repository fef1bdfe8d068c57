"""The ledger of API calls: never one too many in any window, shared between processes, honest about what is left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.domain.errors import Misconfigured
from eventsync.postgres.budget import BudgetLimits, PostgresBudget, prune_calls
from eventsync.postgres.database import Database
from eventsync.vendorkit.budget import BudgetSpent, Purpose

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
    await spend(budget, 12, Purpose.REFETCH)
    await wait_until_free_s(budget, Purpose.REFETCH)
    await spend(budget, 1, Purpose.CHECK)  # a twentieth of twenty
    await wait_until_free_s(budget, Purpose.CHECK)
    await spend(budget, 1, Purpose.SWEEP)
    with pytest.raises(BudgetSpent, match="the day's API calls are spent"):
        await budget.reserve(Purpose.BACKFILL)


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
