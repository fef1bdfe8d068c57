"""The call plan: slices that tile the window, in the order of their benefit, each at what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.call_plan import changed_since_day, changes_plan, full_plan, near_read
from eventsync.domain.reads import Covered, Covers, Cursor, Knowledge, PlannedRead, PracticeSize
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import ReadingRules, slices_of

TODAY = date(2026, 3, 2)
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
TEN_MINUTES = timedelta(minutes=10)
APPOINTMENT, PATIENT = RecordKind.APPOINTMENT, RecordKind.PATIENT

DAYS = st.dates(date(2026, 1, 1), date(2027, 12, 31))
RULES = st.builds(
    ReadingRules,
    days_back=st.integers(0, 120),
    days_ahead=st.integers(0, 120),
    rows_per_page=st.sampled_from([1, 10, 100]),
)
COUNTS = st.one_of(st.integers(0, 60), st.integers(0, 3_000), st.sampled_from([99, 100, 101, 1_999, 2_000]))


@st.composite
def practices(draw: st.DrawFn) -> tuple[PracticeSize, date, ReadingRules]:
    today, rules = draw(DAYS), draw(RULES)
    numbers = st.integers(-rules.days_back - 9, rules.days_ahead + 9)
    counts = draw(st.dictionaries(numbers, COUNTS, max_size=60))
    usual = draw(st.integers(0, 200))
    by_day = {today + number * DAY: usual for number in range(-rules.days_back, rules.days_ahead)}
    by_day |= {today + number * DAY: count for number, count in counts.items()}
    size = PracticeSize(
        clients=draw(st.integers(0, 500)),
        appointments_by_day=by_day,
        changes_per_day={APPOINTMENT: draw(st.floats(0, 400)), PATIENT: draw(st.floats(0, 50))},
        deleted_lately={APPOINTMENT: draw(st.integers(0, 300))},
    )
    return size, today, rules


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def evenly(count: int, *, today: date = TODAY, rules: ReadingRules | None = None) -> dict[date, int]:
    rules = rules or ReadingRules()
    return {today + number * DAY: count for number in range(-rules.days_back, rules.days_ahead + 1)}


def covered(first_day: date, last_day: date, read_began_at: datetime) -> Covered:
    return Covered(APPOINTMENT, midnight(first_day), midnight(last_day + DAY), read_began_at)


def all_clients(read_began_at: datetime) -> Covered:
    always = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    return Covered(PATIENT, *always, read_began_at)


def window(read: PlannedRead) -> tuple[int, int]:
    assert read.first_day is not None
    assert read.last_day is not None
    return (read.first_day - TODAY).days, (read.last_day - TODAY).days


def windows(plan: tuple[PlannedRead, ...]) -> list[tuple[int, int]]:
    return [window(read) for read in plan if read.covers is Covers.WINDOW]


def order(plan: tuple[PlannedRead, ...]) -> list[object]:
    return [window(read) if read.covers is Covers.WINDOW else (read.kind, read.covers) for read in plan]


def walked(rows: int, rows_per_page: int) -> int:
    """Count the calls of walking a list of so many rows, as a client does: on until a page is short."""
    calls, left = 0, rows
    while True:
        calls += 1
        page = min(left, rows_per_page)
        left -= page
        if page < rows_per_page:
            return calls


@given(practices())
def test_slices_tile_the_window_exactly(practice: tuple[PracticeSize, date, ReadingRules]) -> None:
    size, today, rules = practice
    slices = sorted(slices_of(size, today, rules), key=lambda piece: piece.first_day)
    assert slices[0].first_day == today - (rules.days_back + 1) * DAY
    assert slices[-1].last_day == today + (rules.days_ahead + 1) * DAY
    for piece, following in pairwise(slices):
        assert piece.first_day <= piece.last_day
        assert following.first_day == piece.last_day + DAY


@given(practices())
def test_a_slice_has_about_twenty_pages_at_most_and_a_day_is_never_cut(
    practice: tuple[PracticeSize, date, ReadingRules],
) -> None:
    size, today, rules = practice
    for piece in slices_of(size, today, rules):
        assert rules.calls_for(piece.rows) <= 20 or piece.first_day == piece.last_day


@given(practices())
def test_nothing_is_planned_twice(practice: tuple[PracticeSize, date, ReadingRules]) -> None:
    size, today, rules = practice
    for plan in (
        full_plan(Knowledge(size), today, NOW, rules),
        changes_plan(Knowledge(size), today, NOW, spare_calls=10**6, rules=rules),
    ):
        lists = [(read.kind, read.covers, read.first_day) for read in plan]
        assert len(lists) == len(set(lists))
        days = [
            read.first_day + number * DAY
            for read in plan
            if read.first_day is not None and read.last_day is not None
            for number in range((read.last_day - read.first_day).days + 1)
        ]
        assert len(days) == len(set(days))


@given(practices())
def test_a_practice_that_does_not_change_costs_no_more_calls_than_expected(
    practice: tuple[PracticeSize, date, ReadingRules],
) -> None:
    size, today, rules = practice
    for read in full_plan(Knowledge(size), today, NOW, rules):
        match read.covers:
            case Covers.WINDOW:
                assert read.first_day is not None
                assert read.last_day is not None
                rows = sum(n for day, n in size.appointments_by_day.items() if read.first_day <= day <= read.last_day)
            case Covers.EVERYTHING:
                rows = size.clients
            case _:
                rows = size.deleted_lately.get(read.kind, 0)
        assert walked(rows, rules.rows_per_page) <= read.expected_calls


@pytest.mark.parametrize(("rows", "calls"), [(0, 1), (1, 1), (99, 1), (100, 2), (101, 2), (1_999, 20), (2_000, 21)])
def test_a_full_last_page_costs_one_call_more(rows: int, calls: int) -> None:
    assert ReadingRules().calls_for(rows) == calls == walked(rows, 100)


def test_a_first_connect_reads_the_nearest_days_first() -> None:
    assert order(full_plan(Knowledge(), TODAY, NOW)) == [
        (-1, 2),
        (3, 7),
        (APPOINTMENT, Covers.DELETIONS),
        (PATIENT, Covers.DELETIONS),
        (8, 30),
        (-30, -2),
        (PATIENT, Covers.EVERYTHING),
        (31, 91),
        (-91, -31),
    ]


def test_a_short_window_has_no_slices_outside_it() -> None:
    rules = ReadingRules(days_back=0, days_ahead=0)
    assert windows(full_plan(Knowledge(), TODAY, NOW, rules)) == [(-1, 1)]
    rules = ReadingRules(days_back=2, days_ahead=10)
    assert windows(full_plan(Knowledge(), TODAY, NOW, rules)) == [(-1, 2), (3, 7), (8, 11), (-3, -2)]


@given(practices())
def test_among_slices_never_verified_the_nearer_comes_first(
    practice: tuple[PracticeSize, date, ReadingRules],
) -> None:
    size, today, rules = practice
    reads = [read for read in full_plan(Knowledge(size), today, NOW, rules) if read.first_day is not None]
    ahead = [read.first_day for read in reads if read.first_day and read.first_day >= today]
    behind = [read.first_day for read in reads if read.first_day and read.first_day < today - DAY]
    assert ahead == sorted(ahead)
    assert behind == sorted(behind, reverse=True)
    assert reads[0].first_day == today - DAY


def test_a_busy_practices_near_days_are_cut_too_and_all_of_them_come_first() -> None:
    size = PracticeSize(appointments_by_day=evenly(900))
    plan = full_plan(Knowledge(size), TODAY, NOW)
    assert order(plan)[:6] == [(-1, 0), (1, 2), (3, 4), (5, 5), (6, 7), (APPOINTMENT, Covers.DELETIONS)]


def test_what_was_verified_longest_ago_comes_first_and_what_never_was_before_that() -> None:
    size = PracticeSize(appointments_by_day=evenly(60))
    assert windows(full_plan(Knowledge(size), TODAY, NOW)) == [
        (-1, 7),
        (8, 34),
        (-29, -2),
        (35, 66),
        (-61, -30),
        (67, 91),
        (-91, -62),
    ]
    verified_days_ago = {(8, 34): 1, (-29, -2): 4, (35, 66): 2, (-61, -30): 1, (67, 91): 4}
    windows_read = [
        covered(TODAY + first * DAY, TODAY + last * DAY, NOW - days * DAY)
        for (first, last), days in verified_days_ago.items()
    ]
    plan = full_plan(Knowledge(size, covered=(*windows_read, all_clients(NOW - 3 * DAY))), TODAY, NOW)
    assert order(plan)[3:] == [
        (-91, -62),  # never
        (-29, -2),  # four days ago, and nearer
        (67, 91),
        (PATIENT, Covers.EVERYTHING),  # three
        (35, 66),  # two
        (8, 34),  # one
        (-61, -30),
    ]


def test_lists_read_by_one_run_count_as_equally_old() -> None:
    size = PracticeSize(appointments_by_day=evenly(5))
    last_run = NOW - DAY
    windows_read = (
        covered(TODAY - 91 * DAY, TODAY - 31 * DAY, last_run),
        covered(TODAY + 31 * DAY, TODAY + 91 * DAY, last_run + timedelta(minutes=10)),
        covered(TODAY - 30 * DAY, TODAY + 30 * DAY, last_run + timedelta(minutes=20)),
    )
    plan = full_plan(Knowledge(size, covered=windows_read), TODAY, NOW)
    assert windows(plan) == [(-1, 7), (8, 34), (-29, -2), (35, 91), (-91, -30)]


def test_the_day_by_which_the_window_moved_on_does_not_make_its_slice_look_unread() -> None:
    size = PracticeSize(appointments_by_day=evenly(5))
    windows_read = (
        covered(TODAY - 91 * DAY, TODAY + 34 * DAY, NOW - 3 * DAY),
        covered(TODAY + 35 * DAY, TODAY + 88 * DAY, NOW - DAY),
    )
    plan = full_plan(Knowledge(size, covered=windows_read), TODAY, NOW)
    assert windows(plan)[-1] == (35, 91)


def test_a_slice_stays_the_same_as_the_days_go_by() -> None:
    size = PracticeSize(appointments_by_day=evenly(165))
    days = [
        {(piece.first_day, piece.last_day) for piece in slices_of(size, TODAY + n * DAY, ReadingRules())}
        for n in (0, 1)
    ]
    assert len(days[0]) == 22
    assert len(days[0] & days[1]) == 22 - 1 - 2 - 2  # but for the near days, and the pieces beside them and at the ends


def test_coverage_of_a_part_of_a_day_does_not_verify_the_day() -> None:
    knowledge = Knowledge(
        covered=(Covered(APPOINTMENT, NOW, NOW + 29 * DAY, NOW), covered(TODAY - 40 * DAY, TODAY - DAY, NOW - DAY))
    )
    reads = changes_plan(knowledge, TODAY, NOW, spare_calls=10)
    assert reads[-1].covers is Covers.WINDOW


def test_deletions_are_told_since_the_last_list_but_for_no_longer_than_the_vendor_tells_them() -> None:
    cursors = {
        APPOINTMENT: Cursor(NOW - 30 * DAY, NOW - 2 * HOUR),
        PATIENT: Cursor(NOW - 30 * DAY, NOW - 12 * DAY),
    }
    size = PracticeSize(deleted_lately={APPOINTMENT: 250})
    plan = full_plan(Knowledge(size, deleted=cursors), TODAY, NOW)
    appointments, clients = (read for read in plan if read.covers is Covers.DELETIONS)
    assert (appointments.since, appointments.expected_calls) == (NOW - 2 * HOUR - timedelta(minutes=10), 3)
    assert (clients.since, clients.expected_calls) == (NOW - 10 * DAY + HOUR, 1)


def test_changes_are_read_from_the_vendors_own_last_time_where_our_clock_was_ahead_of_it() -> None:
    ahead = Cursor(NOW - 9 * DAY, NOW - HOUR, last_modified=NOW - 5 * HOUR)
    behind = Cursor(NOW - 9 * DAY, NOW - HOUR, last_modified=NOW + 5 * HOUR)
    quiet = Cursor(NOW - 90 * DAY, NOW - HOUR, last_modified=NOW - 60 * DAY)
    since = [
        changes_plan(Knowledge(changed={APPOINTMENT: cursor}), TODAY, NOW)[0].since for cursor in (ahead, behind, quiet)
    ]
    assert since == [NOW - 5 * HOUR - TEN_MINUTES, NOW - HOUR - TEN_MINUTES, NOW - 7 * DAY]


def test_changes_are_read_since_the_last_list_with_an_overlap() -> None:
    cursors = {APPOINTMENT: Cursor(NOW - 9 * DAY, NOW - HOUR), PATIENT: Cursor(NOW - 90 * DAY, NOW - 60 * DAY)}
    deleted = {PATIENT: Cursor(NOW - DAY, NOW - HOUR)}
    appointments, gone, clients = changes_plan(Knowledge(changed=cursors, deleted=deleted), TODAY, NOW)
    assert (appointments.kind, appointments.covers) == (APPOINTMENT, Covers.CHANGES)
    assert appointments.since == NOW - HOUR - TEN_MINUTES
    assert (gone.kind, gone.covers) == (APPOINTMENT, Covers.DELETIONS)
    assert (clients.kind, clients.covers, clients.since) == (PATIENT, Covers.CHANGES, NOW - 7 * DAY)


def test_without_a_cursor_a_day_of_changes_and_every_deletion_that_is_told_are_read() -> None:
    changed, gone, clients, gone_clients = changes_plan(Knowledge(), TODAY, NOW)
    assert changed.since == clients.since == NOW - DAY
    assert gone.since == gone_clients.since == NOW - 10 * DAY + HOUR


@pytest.mark.parametrize(("age", "is_read"), [(timedelta(hours=5, minutes=59), False), (timedelta(hours=6), True)])
def test_deleted_clients_are_listed_every_six_hours(age: timedelta, is_read: bool) -> None:
    knowledge = Knowledge(deleted={PATIENT: Cursor(NOW - 9 * DAY, NOW - age)})
    lists = [(read.kind, read.covers) for read in changes_plan(knowledge, TODAY, NOW)]
    assert ((PATIENT, Covers.DELETIONS) in lists) is is_read


@pytest.mark.parametrize(
    ("now", "covered_until", "changes_per_day", "calls"),
    [
        (time(10), time(9), 49.0, 1),  # yesterday and today: 98 rows
        (time(10), time(9), 50.0, 2),
        (time(0, 5), time(0, 4), 33.0, 1),  # the overlap reaches into yesterday, so the day before is listed as well
        (time(0, 5), time(0, 4), 34.0, 2),
        (time(10), time(9), 0.0, 1),
    ],
)
def test_a_list_of_changes_costs_the_whole_days_that_it_lists(
    now: time, covered_until: time, changes_per_day: float, calls: int
) -> None:
    cursor = Cursor(NOW - 9 * DAY, datetime.combine(TODAY, covered_until, UTC))
    knowledge = Knowledge(PracticeSize(changes_per_day={APPOINTMENT: changes_per_day}), {APPOINTMENT: cursor})
    assert changes_plan(knowledge, TODAY, datetime.combine(TODAY, now, UTC))[0].expected_calls == calls


@given(since=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), offset_h=st.integers(-12, 14))  # noqa: DTZ001  # made aware below
def test_the_day_to_filter_by_begins_before_the_moment_wherever_the_vendors_midnight_is(
    since: datetime, offset_h: int
) -> None:
    moment = since.replace(tzinfo=UTC)
    assert midnight(changed_since_day(moment)) - timedelta(hours=offset_h) <= moment


def near_days(knowledge: Knowledge, spare_calls: int) -> list[tuple[int, int]]:
    return windows(changes_plan(knowledge, TODAY, NOW, spare_calls=spare_calls))


def test_calls_to_spare_verify_today_and_tomorrow_once_they_are_old() -> None:
    size = PracticeSize(appointments_by_day=evenly(70))  # 280 on the four days that are read for the two
    old, fresh = NOW - 3 * HOUR, NOW - 2 * HOUR
    assert near_days(Knowledge(size), 0) == []
    assert near_days(Knowledge(size), 2) == []
    assert near_days(Knowledge(size), 3) == [(-1, 2)]
    assert near_days(Knowledge(size, covered=(covered(TODAY, TODAY + DAY, fresh),)), 3) == []
    assert near_days(Knowledge(size, covered=(covered(TODAY, TODAY + DAY, old),)), 3) == [(-1, 2)]
    only_today = (covered(TODAY, TODAY, fresh), covered(TODAY - DAY, TODAY + DAY, old))
    assert near_days(Knowledge(size, covered=only_today), 3) == [(-1, 2)]
    assert near_read(size, TODAY).expected_calls == 3


def test_rules_that_cannot_be_are_refused() -> None:
    for wrong in ({"days_back": -1}, {"days_ahead": -1}, {"rows_per_page": 0}):
        with pytest.raises(ValueError, match="at least"):
            _rules(wrong)


def _rules(values: Mapping[str, int]) -> ReadingRules:
    return ReadingRules(**values)  # type: ignore[arg-type]  # names of fields that are whole numbers
