"""Schedules on a wall clock: once for every time that it shows, twice shows or leaves out; nonsense refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.daily_schedule import DailySchedule
from eventsync.domain.errors import Misconfigured
from eventsync.domain.sync_settings import SyncSettings, zone_of

DENVER = ZoneInfo("America/Denver")
ZONES = ("America/Denver", "UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu")


def utc(day: int, hour: int, minute: int = 0, *, month: int = 3) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def dues(expression: str, start: datetime, end: datetime, *, zone: ZoneInfo = DENVER) -> list[datetime]:
    """Walk from one due time to the next, as a scheduler does."""
    schedule = DailySchedule.parse(expression, zone)
    found = []
    due = schedule.next_due(start)
    while due is not None and due <= end:
        found.append(due)
        due = schedule.next_due(due)
    return found


@pytest.mark.parametrize(
    ("expression", "around_spring", "around_autumn"),
    [
        # 2026-03-08 2:00 -> 3:00 and 2026-11-01 2:00 -> 1:00, UTC-7 in winter and UTC-6 in summer
        ("0 3 * * *", [utc(7, 10), utc(8, 9), utc(9, 9)], [utc(31, 9, month=10), utc(1, 10, month=11)]),
        ("30 2 * * *", [utc(7, 9, 30), utc(8, 9, 30), utc(9, 8, 30)],
         [utc(31, 8, 30, month=10), utc(1, 9, 30, month=11)]),
        ("30 1 * * *", [utc(7, 8, 30), utc(8, 8, 30), utc(9, 7, 30)],
         [utc(31, 7, 30, month=10), utc(1, 7, 30, month=11)]),
    ],
)  # fmt: skip
def test_a_daily_time_comes_once_in_the_nights_in_which_the_clock_is_changed(
    expression: str, around_spring: list[datetime], around_autumn: list[datetime]
) -> None:
    assert dues(expression, utc(7, 6), utc(9, 12)) == around_spring
    assert dues(expression, utc(31, 6, month=10), utc(1, 12, month=11)) == around_autumn


def test_the_second_of_two_equal_hours_brings_nothing_new() -> None:
    schedule = DailySchedule.parse("30 1 * * *", DENVER)
    first = utc(1, 7, 30, month=11)
    for minutes in (0, 1, 30, 45, 60, 61, 90):  # 1:30, 1:31, 1:00 again, 1:15 again, 1:30 again, ...
        assert schedule.last_due(first + timedelta(minutes=minutes)) == first


@pytest.mark.parametrize("seconds", [0, 0.000001, 1])
def test_a_time_is_due_from_its_very_moment_on(seconds: float) -> None:
    schedule = DailySchedule.parse("0 3 * * *", DENVER)
    assert schedule.last_due(utc(8, 9) + timedelta(seconds=seconds)) == utc(8, 9)
    assert schedule.next_due(utc(8, 9) + timedelta(seconds=seconds)) == utc(9, 9)
    assert schedule.last_due(utc(8, 9) - timedelta(microseconds=1)) == utc(7, 10)
    assert schedule.next_due(utc(8, 9) - timedelta(microseconds=1)) == utc(8, 9)


@given(
    zone=st.sampled_from([ZoneInfo(name) for name in ZONES]),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    start=st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 1)),  # noqa: DTZ001  # made aware below
    looks=st.lists(st.integers(1, 7200), max_size=60),
)
def test_whenever_a_scheduler_looks_it_sees_each_days_time_once_and_in_order(
    zone: ZoneInfo, hour: int, minute: int, start: datetime, looks: list[int]
) -> None:
    schedule = DailySchedule.parse(f"{minute} {hour} * * *", zone)
    now = start.replace(tzinfo=UTC)
    seen = []
    for minutes in looks:
        last, following = schedule.last_due(now), schedule.next_due(now)
        assert last is not None
        assert following is not None
        assert last <= now < following
        assert timedelta(hours=22) <= following - last <= timedelta(hours=26)
        assert schedule.last_due(following) == following
        assert schedule.next_due(last) == following
        seen.append(last)
        now += timedelta(minutes=minutes)
    assert seen == sorted(seen)
    assert len(set(seen)) == len({due.astimezone(zone).date() for due in seen})


@pytest.mark.parametrize(
    "expression",
    ["", "x", "0 3 * *", "0 3 * * * *", "@daily", "0 24 * * *", "60 3 * * *", "0 3 31 2 *", "0 3 * * 8",
     "1" * 99 + " 3 * * *", "0 3 * * \u0663", "5" * 5000 + " 3 * * *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_with_how_to_write_one(expression: str) -> None:
    with pytest.raises(Misconfigured, match="0 3"):
        DailySchedule.parse(expression, DENVER)


@pytest.mark.parametrize("expression", ["* 3 * * *", "*/30 3 * * *", "0,30 3 * * *", "* * * * *", "0,59 3 1 1 *"])
def test_a_schedule_that_would_spend_the_days_calls_in_an_hour_is_refused(expression: str) -> None:
    with pytest.raises(Misconfigured, match="once an hour"):
        DailySchedule.parse(expression, DENVER)


@pytest.mark.parametrize("expression", ["0 3 * * MON-FRI", "15 */6 * * *", "0 * * * *", "0 3 1 * *", "0 3 29 2 *"])
def test_other_rhythms_are_taken(expression: str) -> None:
    assert DailySchedule.parse(expression, DENVER).last_due(utc(8, 9)) is not None


def test_settings_that_are_not_set_have_defaults_and_off_means_none() -> None:
    assert SyncSettings.of({}) == SyncSettings("0 3 * * *", True, 90, 90)
    given_ = {"daily_schedule": "off", "sweeps": "off", "days_back": "30", "days_ahead": "365", "calls_per_day": "9"}
    assert SyncSettings.of(given_) == SyncSettings(None, False, 30, 365)


def test_what_was_set_by_hand_and_wrongly_is_told_as_such() -> None:
    with pytest.raises(Misconfigured, match="days_back"):
        SyncSettings.of({"days_back": "many"})
    with pytest.raises(Misconfigured, match="time zone"):
        zone_of("Mars/Olympus")
