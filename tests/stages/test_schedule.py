"""The scheduler: each connection's daily run on its own clock and its sweeps, asked for once whoever looks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.domain.runs import Run, RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.runs import Runs
from eventsync.postgres.schedules import Schedules
from eventsync.stages.schedule import Scheduler
from eventsync.telemetry import Metrics
from servers.eventually import eventually
from stages.spine import ManualClock, Spine

CREATED = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
DUE = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)  # 3:00 in Denver, in winter
DAILY, SWEEP = SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP
NO_SWEEPS = {"sweeps": "off"}


class Practice:
    """One connection in Denver, made long ago, and the schedulers that look after it."""

    def __init__(self, pool: Database, database: asyncpg.Connection, connection_id: ConnectionId) -> None:
        self.runs = Runs(pool)
        self.schedules = Schedules(pool)
        self.clock = ManualClock(DUE)
        self.database = database
        self.connection_id = connection_id
        self.listener = Listener(pool.url, Metrics())
        self.scheduler = self.another_scheduler()

    def another_scheduler(self) -> Scheduler:
        return Scheduler(self.schedules, self.runs, self.listener, self.clock, vendors=["intakeq"])

    async def set(
        self, settings: Mapping[str, str], *, created: datetime = CREATED, zone: str = "America/Denver"
    ) -> None:
        await self.database.execute(
            "UPDATE connections SET settings = $2::jsonb, created_at = $3, timezone = $4 WHERE id = $1",
            *(self.connection_id, orjson.dumps(settings).decode(), created, zone),
        )

    async def asked(self, sync_type: SyncType = DAILY) -> list[datetime | None]:
        """The schedule's times that runs were asked for, in the order in which they were."""
        found = await self.runs.recent(connection_id=self.connection_id, sync_type=sync_type, at_most=99)
        return [run.due_at for run in sorted(found, key=lambda run: run.created_at)]

    async def end_all(self, now: datetime) -> None:
        while (lease := await self.runs.claim(uuid4(), now, now)) is not None:
            await self.runs.end(lease, RunEnd(RunStatus.COMPLETED), now)

    async def look(self, *times: datetime) -> datetime:
        """Let the scheduler look at these times, with every run ended in between; answers when it will look next."""
        looks_again_at = times[0]
        for now in times:
            looks_again_at = await self.scheduler.run_once(now)
            await self.end_all(now)
        return looks_again_at


@pytest.fixture
async def practice(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> Practice:
    await database.execute("UPDATE connections SET disabled_at = now() WHERE id = $1", connection_ids[1])
    made = Practice(pool, database, connection_ids[0])
    await made.set(NO_SWEEPS)
    return made


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


async def test_the_daily_run_is_asked_for_at_three_on_the_practices_clock_for_its_owner(practice: Practice) -> None:
    assert await practice.look(DUE - minutes(2)) == DUE - minutes(1)  # at least once a minute
    assert await practice.scheduler.run_once(DUE - timedelta(seconds=20)) == DUE
    await practice.scheduler.run_once(DUE - timedelta(microseconds=1))
    assert await practice.runs.recent() == []
    await practice.scheduler.run_once(DUE)
    (run,) = await practice.runs.recent()
    owner = await practice.database.fetchval(
        "SELECT organization_id FROM connections WHERE id = $1", practice.connection_id
    )
    assert (run.sync_type, run.triggered_by, run.organization_id, run.due_at) == (DAILY, "schedule", owner, DUE)


async def test_each_daily_time_is_asked_for_once_however_often_and_late_anyone_looks(practice: Practice) -> None:
    await practice.look(*(DUE + minutes(17 * step) for step in range(90)))
    assert await practice.asked() == [DUE, DUE + timedelta(days=1)]


@pytest.mark.parametrize(
    ("expression", "first_look", "expected"),
    [  # nights in which Denver's clock goes from 2:00 to 3:00 (8 March) and from 2:00 to 1:00 (1 November)
        ("30 2 * * *", datetime(2026, 3, 7, 12, tzinfo=UTC), datetime(2026, 3, 8, 9, 30, tzinfo=UTC)),
        ("0 3 * * *", datetime(2026, 3, 7, 12, tzinfo=UTC), datetime(2026, 3, 8, 9, tzinfo=UTC)),
        ("30 1 * * *", datetime(2026, 10, 31, 12, tzinfo=UTC), datetime(2026, 11, 1, 7, 30, tzinfo=UTC)),
        ("0 3 * * *", datetime(2026, 10, 31, 12, tzinfo=UTC), datetime(2026, 11, 1, 10, tzinfo=UTC)),
    ],
)
async def test_in_a_night_in_which_the_clock_is_changed_the_daily_run_comes_exactly_once(
    practice: Practice, expression: str, first_look: datetime, expected: datetime
) -> None:
    await practice.set({**NO_SWEEPS, "daily_schedule": expression}, created=first_look)
    await practice.look(*(first_look + minutes(15 * step) for step in range(97)))
    assert await practice.asked() == [expected]


async def test_a_time_that_was_missed_is_caught_up_with_for_twenty_hours(practice: Practice) -> None:
    await practice.look(DUE + timedelta(hours=20))
    assert await practice.asked() == []
    await practice.look(DUE + timedelta(hours=19, minutes=59))
    assert await practice.asked() == [DUE]


async def test_a_time_before_the_connection_was_made_is_not_caught_up_with(practice: Practice) -> None:
    await practice.set(NO_SWEEPS, created=DUE + minutes(1))
    await practice.look(DUE + minutes(2), DUE + timedelta(days=1))
    assert await practice.asked() == [DUE + timedelta(days=1)]


async def test_a_clock_that_is_set_back_asks_for_nothing_a_second_time(practice: Practice) -> None:
    await practice.look(DUE, DUE - timedelta(days=1), DUE - minutes(5), DUE + minutes(5))
    assert await practice.asked() == [DUE]


async def test_a_daily_schedule_that_is_off_and_a_disabled_connection_ask_for_nothing(practice: Practice) -> None:
    await practice.set({**NO_SWEEPS, "daily_schedule": "off"})
    assert await practice.look(DUE) == DUE + minutes(1)
    await practice.set({})
    await practice.database.execute("UPDATE connections SET disabled_at = now()")
    await practice.look(DUE)
    assert await practice.runs.recent() == []


async def test_yesterdays_run_that_is_not_over_yet_lets_todays_follow_it(practice: Practice) -> None:
    await practice.scheduler.run_once(DUE)
    tomorrow = DUE + timedelta(days=1)
    await practice.scheduler.run_once(tomorrow)
    assert await practice.asked() == [DUE]
    await practice.end_all(tomorrow + minutes(30))
    await practice.look(tomorrow + minutes(31))
    assert await practice.asked() == [DUE, tomorrow]


async def test_the_first_sweep_comes_a_quarter_of_an_hour_after_the_connection_was_seen(practice: Practice) -> None:
    await practice.set({"daily_schedule": "off"})
    assert await practice.look(DUE) == DUE + minutes(1)
    assert await practice.look(DUE + minutes(14.5)) == DUE + minutes(15)
    assert await practice.asked(SWEEP) == []
    await practice.look(DUE + minutes(15))
    assert await practice.asked(SWEEP) == [DUE + minutes(15)]


async def test_sweeps_follow_each_other_until_a_run_plans_the_next_one(practice: Practice) -> None:
    await practice.set({"daily_schedule": "off"})
    await practice.look(*(DUE + minutes(step) for step in range(46)))
    assert await practice.asked(SWEEP) == [DUE + minutes(15 * step) for step in (1, 2, 3)]
    planned = DUE + minutes(200)
    await practice.schedules.plan_sweep(practice.connection_id, planned)
    await practice.look(*(DUE + minutes(step) for step in range(46, 202)))
    assert (await practice.asked(SWEEP))[3:] == [planned]


async def test_sweeps_that_are_off_wait_until_they_are_on_again(practice: Practice) -> None:
    await practice.look(DUE, DUE + minutes(20))
    assert await practice.asked(SWEEP) == []
    await practice.set({})
    await practice.look(DUE + minutes(21))
    assert await practice.asked(SWEEP) == [DUE + minutes(15)]


async def test_a_sweep_that_a_clock_far_ahead_has_planned_does_not_wait_for_that_time(practice: Practice) -> None:
    await practice.set({"daily_schedule": "off"})
    await practice.schedules.plan_sweep(practice.connection_id, DUE + timedelta(days=30))
    await practice.look(DUE, DUE + minutes(5))
    assert await practice.asked(SWEEP) == [DUE + timedelta(days=30)]
    await practice.look(DUE + minutes(15))
    assert len(await practice.asked(SWEEP)) == 2


async def test_several_schedulers_at_once_do_no_harm(practice: Practice) -> None:
    await practice.set({})
    await practice.look(DUE - minutes(15))
    others = [practice.another_scheduler() for _ in range(4)]
    await asyncio.gather(*(other.run_once(DUE) for other in (practice.scheduler, *others)))
    assert (await practice.asked(), await practice.asked(SWEEP)) == ([DUE], [DUE])


class DyingSchedules(Schedules):
    """A store whose scheduler dies after it has asked for a sweep, before that was noted."""

    async def put_off_sweep(self, *_: Any) -> bool:
        raise Transient("away")


async def test_a_scheduler_that_dies_after_asking_has_asked_once(practice: Practice, pool: Database) -> None:
    await practice.set({"daily_schedule": "off"})
    await practice.look(DUE - minutes(15))
    dying = Scheduler(DyingSchedules(pool), practice.runs, practice.listener, practice.clock, vendors=["intakeq"])
    with pytest.raises(Transient):
        await dying.run_once(DUE)
    await practice.end_all(DUE)
    await practice.look(DUE + minutes(1))
    assert await practice.asked(SWEEP) == [DUE]


@pytest.mark.parametrize(
    ("settings", "zone"),
    [({"daily_schedule": "soon"}, "America/Denver"), ({"days_back": "many"}, "UTC"), ({}, "Mars/Olympus")],
)
async def test_settings_broken_by_hand_are_told_and_the_others_schedules_go_on(
    practice: Practice, connection_ids: list[ConnectionId], settings: Mapping[str, str], zone: str
) -> None:
    await practice.database.execute(
        "UPDATE connections SET disabled_at = NULL, created_at = $2 WHERE id = $1", connection_ids[1], CREATED
    )
    await practice.set(settings, zone=zone)
    with capture_logs() as logs:
        await practice.scheduler.run_once(DUE)
    assert [entry["log_level"] for entry in logs if entry["event"] == "schedule_not_understood"] == ["error"]
    assert await practice.asked() == []
    assert [run.due_at for run in await practice.runs.recent(connection_id=connection_ids[1])] == [DUE - minutes(420)]


async def test_the_worker_asks_at_once_and_again_when_a_connection_changes(practice: Practice, spine: Spine) -> None:
    async def times() -> list[datetime | None]:
        return await practice.asked()

    scheduler = Scheduler(practice.schedules, practice.runs, spine.listener, practice.clock, vendors=["intakeq"])
    async with spine.running(scheduler, spine.listener):
        await eventually(times)
        await spine.listener.proven.wait()
        practice.clock.advance(86400)
        await practice.end_all(practice.clock())
        await practice.set({**NO_SWEEPS, "days_back": "30"})
        await eventually(lambda: asked_twice(practice))
    assert await practice.asked() == [DUE, DUE + timedelta(days=1)]


async def asked_twice(practice: Practice) -> bool:
    return len(await practice.asked()) == 2


async def test_a_run_by_hand_that_goes_on_at_three_is_the_daily_one(practice: Practice) -> None:
    owner = await practice.database.fetchval(
        "SELECT organization_id FROM connections WHERE id = $1", practice.connection_id
    )
    request = RunRequest(DAILY, practice.connection_id, owner, "person@example.test")
    by_hand: Run = (await practice.runs.request(request, DUE - minutes(5)))[0]
    await practice.look(DUE, DUE + minutes(10))
    (only,) = await practice.runs.recent()
    assert (only.id, only.due_at, only.triggered_by) == (by_hand.id, DUE, "person@example.test")
