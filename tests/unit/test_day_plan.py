"""A day's calls: sweeps that leave room, runs that get through, a rhythm that clock changes do not disturb."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsync.domain.call_costs import cost_markdown, cost_table, typical_practice
from eventsync.domain.call_plan import changes_plan, full_plan
from eventsync.domain.day_plan import CallPlan, Demand, next_sweep_at, plan_of_day
from eventsync.domain.reads import Covered, Covers, Cursor, Knowledge, PlannedRead, PracticeSize
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import DEFAULT_RULES

TODAY = date(2026, 3, 2)
DENVER = ZoneInfo("America/Denver")
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
KINDS = (RecordKind.APPOINTMENT, RecordKind.PATIENT)

SIZES = st.builds(
    typical_practice, clients=st.integers(0, 15_000), appointments=st.integers(0, 45_000), today=st.just(TODAY)
)


def local(day: date, hour: int, zone: ZoneInfo = DENVER) -> datetime:
    return datetime.combine(day, time(hour), zone).astimezone(UTC)


def sweeps_between(plan: CallPlan, begin: datetime, end: datetime, zone: ZoneInfo = DENVER) -> list[datetime]:
    """List the sweeps that are due in [begin, end)."""
    due = []
    moment = next_sweep_at(plan, begin - timedelta(microseconds=1), zone)
    while moment < end:
        due.append(moment)
        moment = next_sweep_at(plan, moment, zone)
    return due


def test_a_practice_of_two_thousand_clients_stays_below_three_fifths_of_the_day() -> None:
    plan = plan_of_day(typical_practice(2_000, 6_000, TODAY), 500, TODAY)
    assert plan.total < 300
    assert plan.manual == 20 * 3
    assert plan.refetches == 33
    assert plan.days_to_verify_everything == 1
    assert plan.daily_run == plan.full_run == 85
    assert plan.sweeps_per_day >= 16


def test_a_practice_of_ten_thousand_clients_is_told_how_many_days_a_full_run_takes() -> None:
    plan = plan_of_day(typical_practice(10_000, 30_000, TODAY), 500, TODAY)
    assert plan.full_run <= 430  # a full run alone fits into what runs may spend of a day
    assert plan.sweeps_per_day == 12
    assert plan.total == 430
    assert plan.fraction_of_day == 0.86
    assert plan.days_to_verify_everything == 7
    quiet = plan_of_day(typical_practice(10_000, 30_000, TODAY), 500, TODAY, demand=Demand(refetches=0))
    assert quiet.days_to_verify_everything == 2


def test_an_allowance_that_never_suffices_is_told_as_such() -> None:
    plan = plan_of_day(typical_practice(10_000, 30_000, TODAY), 300, TODAY)
    assert (plan.daily_run, plan.days_to_verify_everything) == (0, None)
    a_busy_day = PracticeSize(appointments_by_day={TODAY + 20 * DAY: 30_000})
    assert plan_of_day(a_busy_day, 300, TODAY).days_to_verify_everything is None


def test_without_a_daily_cap_a_sweep_is_due_every_five_minutes_and_everything_is_verified_daily() -> None:
    plan = plan_of_day(typical_practice(10_000, 30_000, TODAY), None, TODAY)
    assert (plan.days_to_verify_everything, plan.fraction_of_day, plan.daily_run) == (1, None, plan.full_run)
    due = sweeps_between(plan, local(TODAY, 0), local(TODAY + DAY, 0))
    assert {later - earlier for earlier, later in pairwise(due)} == {5 * MINUTE}


def test_a_small_practice_is_swept_at_most_every_quarter_of_an_hour_on_average() -> None:
    plan = plan_of_day(typical_practice(20, 50, TODAY), 5_000, TODAY)
    assert plan.sweeps_per_day == 96


@given(size=SIZES, calls_per_day=st.integers(50, 3_000))
def test_a_day_stays_below_three_fifths_unless_it_is_down_to_twelve_sweeps(
    size: PracticeSize, calls_per_day: int
) -> None:
    plan = plan_of_day(size, calls_per_day, TODAY)
    assert 12 <= plan.sweeps_per_day <= 96
    if plan.sweeps_per_day > 12 or plan.near_check:
        assert plan.total < 0.6 * calls_per_day
        assert plan.days_to_verify_everything == 1
    others = plan.total - plan.daily_run
    assert plan.total <= max(0.9 * calls_per_day, others)
    assert (plan.days_to_verify_everything == 1) is (plan.daily_run == plan.full_run)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def whole(read: PlannedRead, read_began_at: datetime) -> Covered:
    if read.covers is Covers.EVERYTHING:
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        return Covered(read.kind, first, last, read_began_at)
    assert read.first_day is not None
    assert read.last_day is not None
    return Covered(read.kind, midnight(read.first_day), midnight(read.last_day + DAY), read_began_at)


def run_once(
    knowledge: Knowledge, today: date, calls: int, clients_left: int | None
) -> tuple[list[Covered], int | None]:
    """Carry out a full plan until the calls end; clients go on where they were left."""
    now = midnight(today) + 10 * HOUR
    complete: list[Covered] = []
    for read in full_plan(knowledge, today, now):
        is_clients = read.covers is Covers.EVERYTHING
        cost = read.expected_calls if not is_clients or clients_left is None else clients_left
        if cost > calls:
            return complete, cost - calls if is_clients else clients_left
        calls -= cost
        clients_left = None if is_clients else clients_left
        if read.covers in (Covers.WINDOW, Covers.EVERYTHING):
            complete.append(whole(read, now))
    return complete, clients_left


def is_verified(covered: list[Covered], first_day: date, last_day: date) -> bool:
    days = {first_day + number * DAY for number in range((last_day - first_day).days + 1)}
    for window in covered:
        if window.kind is RecordKind.APPOINTMENT:
            days -= {day for day in days if window.window_from <= midnight(day) < window.window_to}
    return not days and any(window.kind is RecordKind.PATIENT for window in covered)


@given(size=SIZES, calls_per_day=st.integers(150, 1_000), moves=st.booleans())
@settings(max_examples=60, deadline=None)
def test_daily_runs_that_end_early_verify_everything_within_the_days_that_were_told(
    size: PracticeSize, calls_per_day: int, moves: bool
) -> None:
    plan = plan_of_day(size, calls_per_day, TODAY)
    days = plan.days_to_verify_everything
    if days is None or days > 40:
        return
    covered: list[Covered] = []
    clients_left: int | None = None
    runs = days + (2 + days // 7) * moves  # as the days go by, what is near moves on, which can cost a run more
    for number in range(runs):
        if number:
            assert not is_verified(covered, TODAY - 91 * DAY, TODAY + 91 * DAY) or moves
        complete, clients_left = run_once(
            Knowledge(size, covered=tuple(covered)), TODAY + number * moves * DAY, plan.daily_run, clients_left
        )
        covered += complete
    assert is_verified(covered, TODAY - (91 - runs * moves) * DAY, TODAY + 91 * DAY)


def week_of_calls(size: PracticeSize, plan: CallPlan, monday: date) -> Iterator[tuple[datetime, int]]:
    """Yield the calls of a week's daily runs and sweeps, planned as they are when they are due."""
    begin = local(monday, 0)
    cursors = dict.fromkeys(KINDS, Cursor(begin - 30 * DAY, begin))
    knowledge = Knowledge(size, changed=cursors, deleted=cursors)
    daily = [(local(monday + number * DAY, 3), "daily") for number in range(7)]
    sweeps = [(moment, "sweep") for moment in sweeps_between(plan, begin, local(monday + 7 * DAY, 0))]
    for now, what in sorted([*daily, *sweeps]):
        today = now.astimezone(DENVER).date()
        reads = (
            full_plan(knowledge, today, now)
            if what == "daily"
            else changes_plan(knowledge, today, now, spare_calls=plan.near_check)
        )
        yield now, sum(read.expected_calls for read in reads)
        knowledge = after(knowledge, reads, now)


def after(knowledge: Knowledge, reads: tuple[PlannedRead, ...], now: datetime) -> Knowledge:
    changed, deleted = dict(knowledge.changed), dict(knowledge.deleted)
    for read in reads:
        cursors = {Covers.CHANGES: changed, Covers.DELETIONS: deleted}.get(read.covers)
        if cursors is not None:
            cursors[read.kind] = replace(cursors[read.kind], covered_until=now)
    seen = tuple(whole(read, now) for read in reads if read.covers in (Covers.WINDOW, Covers.EVERYTHING))
    return replace(knowledge, changed=changed, deleted=deleted, covered=(*knowledge.covered[-20:], *seen))


@pytest.mark.parametrize("monday", [date(2026, 3, 2), date(2026, 4, 6), date(2026, 10, 26)], ids=str)
def test_a_normal_weeks_calls_stay_below_three_fifths_of_the_budget(monday: date) -> None:
    size = typical_practice(2_000, 6_000, monday)
    plan = plan_of_day(size, 500, monday)
    calls = list(week_of_calls(size, plan, monday))
    week = sum(cost for _, cost in calls) + 7 * (plan.manual + plan.refetches)
    assert 7 * 255 < week < 7 * 300  # the plan is neither exceeded nor idle
    by_day = Counter({now.astimezone(DENVER).date(): 0 for now, _ in calls})
    for now, cost in calls:
        by_day[now.astimezone(DENVER).date()] += cost
    assert max(by_day.values()) + plan.manual + plan.refetches < 300
    for begin, _ in calls:  # two daily runs lie within the 24 hours around the night that is an hour shorter
        runs = sum(cost for at, cost in calls if begin <= at < begin + DAY)
        assert runs + plan.manual + plan.refetches < 0.9 * 500


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 8), 23), (date(2026, 6, 1), 24), (date(2026, 11, 1), 25)], ids=str
)
@pytest.mark.parametrize("sweeps", [12, 25, 96])
def test_a_day_has_its_sweeps_whatever_the_clock_does(day: date, hours: int, sweeps: int) -> None:
    plan = replace(plan_of_day(PracticeSize(), 500, TODAY), sweeps_per_day=sweeps)
    evening, morning, next_evening = local(day - DAY, 20), local(day, 6), local(day, 20)
    assert next_evening - evening == hours * HOUR
    by_night = sweeps_between(plan, evening, morning)
    by_day = sweeps_between(plan, morning, next_evening)
    assert (by_night[0], by_day[0]) == (evening, morning)
    assert len(by_night) == plan.sweeps_by_night
    assert len(by_night) + len(by_day) == sweeps
    assert 2 <= (by_night[1] - by_night[0]) / (by_day[1] - by_day[0]) <= 6


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # made aware by `timezones`
    zone=st.sampled_from(["America/Denver", "UTC", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    sweeps=st.integers(12, 96),
)
def test_the_next_sweep_is_always_later_and_never_far(now: datetime, zone: str, sweeps: int) -> None:
    plan = replace(plan_of_day(PracticeSize(), 500, TODAY), sweeps_per_day=sweeps)
    due = next_sweep_at(plan, now, ZoneInfo(zone))
    assert now < due <= now + timedelta(hours=11) / plan.sweeps_by_night
    assert due.tzinfo is UTC
    assert next_sweep_at(plan, due - timedelta(microseconds=1), ZoneInfo(zone)) == due


def test_a_zone_that_skipped_a_whole_day_is_swept_all_the_same() -> None:
    plan = plan_of_day(PracticeSize(), 500, TODAY)
    begin = datetime(2011, 12, 29, tzinfo=UTC)
    due = sweeps_between(plan, begin, begin + 3 * DAY, ZoneInfo("Pacific/Apia"))
    assert max(later - earlier for earlier, later in pairwise(due)) < 2 * HOUR


def test_the_table_of_costs_tells_of_three_practices() -> None:
    small, middle, large = cost_table()
    assert (small.clients, small.appointments, small.days_to_verify_everything) == (200, 1_000, 1)
    assert (middle.full_run, middle.full_run_minutes, middle.sweep) == (85, 11, 4)
    assert middle.fraction_of_day < 0.6
    assert (large.days_to_verify_everything, large.fraction_of_day) == (7, 0.86)
    for row in (small, middle, large):
        size = typical_practice(row.clients, row.appointments)
        assert size.appointments == row.appointments
        pages = row.appointments // 100 + row.clients // 100 + 2
        assert pages <= row.full_run <= 1.1 * pages + 8


def test_the_table_is_written_for_people() -> None:
    lines = cost_markdown(cost_table()).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {8}
    assert lines[3].startswith("| 2,000 | 6,000 | 85 calls, 11 min | 4 calls |")
    assert lines[4].endswith("| 12 | 430 (86.0%) | every 7 days |")
    assert cost_markdown(cost_table([(10_000, 30_000)], calls_per_day=200)).endswith("| never |")


def test_the_rules_of_a_plan_are_those_of_its_runs() -> None:
    size = typical_practice(2_000, 6_000, TODAY)
    short = replace(DEFAULT_RULES, days_back=7, days_ahead=7)
    plan = plan_of_day(size, 500, TODAY, rules=short)
    assert plan.full_run == sum(
        read.expected_calls for read in full_plan(Knowledge(size), TODAY, midnight(TODAY), short)
    )
    assert plan.full_run < plan_of_day(size, 500, TODAY).full_run
