"""Asks for the runs that nobody asks for: each connection's daily one, and the sweeps in between.

It only asks: a run that the schedule wants is answered once by its time (`due_at`), whoever asks and how often, so
several schedulers at once do no harm, and one that was away catches up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.daily_schedule import DailySchedule
from eventsync.domain.errors import Misconfigured
from eventsync.domain.runs import RunRequest, SyncType
from eventsync.domain.sync_settings import SyncSettings, zone_of
from eventsync.postgres.listener import Channel, Listener
from eventsync.postgres.runs import Runs
from eventsync.postgres.schedules import ScheduledConnection, Schedules

TRIGGERED_BY = "schedule"
SWEEP_FALLBACK = timedelta(minutes=15)  # until the run itself plans the next one, by what its budget allows
_CAUGHT_UP_WITHIN = timedelta(hours=20)  # an older daily run would crowd the next one
_LONGEST_BETWEEN_SWEEPS = timedelta(hours=26)  # beyond it, a clock that was ahead has planned it
_LONGEST_WAIT = timedelta(seconds=60)
_log = structlog.get_logger(__name__)


class Scheduler:
    """Looks after the connections to `vendors`, woken by what is due next and by changes to connections."""

    name = "scheduler"

    def __init__(
        self, schedules: Schedules, runs: Runs, listener: Listener, clock: Clock, *, vendors: Sequence[str]
    ) -> None:
        self._schedules = schedules
        self._runs = runs
        self._clock = clock
        self._vendors = tuple(vendors)
        self._signal = listener.signal(Channel.CONFIGURATION)

    async def run(self) -> None:
        """Ask for what is due, for ever. Raises Transient when PostgreSQL is away: run it again."""
        while True:
            now = self._clock()
            next_due = await self.run_once(now)
            await self._signal.wait((next_due - now).total_seconds())

    async def run_once(self, now: datetime) -> datetime:
        """Ask for what is due by `now`; answers when to look again, at most a minute later."""
        next_dues = [now + _LONGEST_WAIT]
        for connection in await self._schedules.connections(self._vendors, now + SWEEP_FALLBACK):
            try:
                settings = SyncSettings.of(connection.settings)
                daily = _daily_schedule(connection, settings)
            except Misconfigured as error:  # set by hand in the database: the others' schedules go on
                _log.error("schedule_not_understood", connection=connection.number, error=str(error))
                continue
            if daily is not None:
                next_dues.append(await self._ask_for_daily(connection, daily, now))
            if settings.has_sweeps:
                next_dues.append(await self._ask_for_sweep(connection, now))
        return min(next_dues)

    async def _ask_for_daily(self, connection: ScheduledConnection, schedule: DailySchedule, now: datetime) -> datetime:
        due_at = schedule.last_due(now)
        if due_at is not None and _is_wanted(connection, due_at, now):
            await self._ask(connection, SyncType.AUTOMATED_DAILY, due_at, now)
        return schedule.next_due(now) or now + _LONGEST_WAIT

    async def _ask_for_sweep(self, connection: ScheduledConnection, now: datetime) -> datetime:
        due_at = connection.next_sweep_at
        if now < due_at <= now + _LONGEST_BETWEEN_SWEEPS:
            return due_at
        await self._ask(connection, SyncType.AUTOMATED_SWEEP, due_at, now)
        await self._schedules.put_off_sweep(connection.id, due_at, now + SWEEP_FALLBACK)
        return now + SWEEP_FALLBACK

    async def _ask(self, connection: ScheduledConnection, sync_type: SyncType, due_at: datetime, now: datetime) -> None:
        request = RunRequest(sync_type, connection.id, connection.organization_id, TRIGGERED_BY, due_at=due_at)
        run, is_new = await self._runs.request(request, now)
        if is_new:
            _log.info("run_asked_for", run_id=str(run.id), sync_type=sync_type.value, connection=connection.number)


def _daily_schedule(connection: ScheduledConnection, settings: SyncSettings) -> DailySchedule | None:
    if settings.daily_schedule is None:
        return None
    return DailySchedule.parse(settings.daily_schedule, zone_of(connection.timezone))


def _is_wanted(connection: ScheduledConnection, due_at: datetime, now: datetime) -> bool:
    answered_at = connection.daily_answered_at
    return (
        connection.created_at < due_at
        and now - due_at < _CAUGHT_UP_WITHIN
        and (answered_at is None or answered_at < due_at)
    )
