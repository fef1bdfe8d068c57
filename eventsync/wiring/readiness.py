"""What each part of a process says of itself when a probe asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from eventsync.bus.wire import Bus
from eventsync.domain.clock import Clock
from eventsync.domain.errors import EventsyncError
from eventsync.domain.events import Lane, WorkClass
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.migrations import check_schema
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.queue_values import QueueMeasure
from eventsync.postgres.retention import Retention
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from eventsync.web.health import Part

if TYPE_CHECKING:  # only some roles have these
    from eventsync.postgres.budget import PostgresBudget
    from eventsync.postgres.freshness import Freshness
    from eventsync.spool.spool import Spool

Measure = Callable[[], Awaitable[None]]
"""Brings some figures up to date."""

_LEAST_AHEAD = timedelta(days=3)
_STUCK_AFTER = timedelta(minutes=5)
_MEASURED_EVERY = timedelta(minutes=1)


def database_part(database: Database, *, blocks: bool) -> Part:
    """PostgreSQL answers, with a schema that this release knows."""

    async def check() -> str:
        async with database.session(acquire_timeout_s=2.0) as session:
            await check_schema(session)
        return ""

    return Part("postgres", check, blocks=blocks)


def partitions_part(retention: Retention, clock: Clock) -> Part:
    """Events find a partition for at least three more days."""

    async def check() -> str:
        until = await retention.covered_until()
        if until is None or until - clock() < _LEAST_AHEAD:
            return "partitions end in less than three days: run the `scheduler` role, or `eventsync migrate`"
        return ""

    return Part("partitions", check, blocks=False)


def listener_part(listener: Listener) -> Part:
    """Notifications arrive. Without them everything still goes on, polled."""

    async def check() -> str:
        return "" if listener.is_proven else f"polling instead of listening: {listener.reason}"

    return Part("listener", check, blocks=False)


def bus_part(bus: Bus, *, blocks: bool) -> Part:
    """The broker takes messages."""

    async def check() -> str:
        return "" if bus.connected else "the broker cannot be reached: check that it runs and EVENTSYNC_AMQP_URL"

    return Part("bus", check, blocks=blocks)


def spool_part(spool: Spool) -> Part:
    """The spool has room, so that webhooks are safe whatever becomes of PostgreSQL."""

    async def check() -> str:
        return spool.shortage

    return Part("spool", check, blocks=False)


def door_part(database: Database, spool: Spool) -> Part:
    """One of the two can store a webhook: only without both must the door be taken out of service."""

    async def check() -> str:
        if not spool.shortage:
            return ""
        try:
            await database.ping()
        except EventsyncError:
            return "neither PostgreSQL nor the spool can take a webhook"
        return ""

    return Part("door", check)


def flow_part(queue: EventQueue, clock: Clock) -> Part:
    """Events that are due come to an end: a process can be connected to everything and still move nothing."""

    async def check() -> str:
        waiting = [row for row in await queue.measure() if row.work == "apply" and row.status != "parked"]
        oldest = min((row.oldest_received_at for row in waiting if row.oldest_received_at), default=None)
        if oldest is not None and clock() - oldest > _STUCK_AFTER:
            age_s = int((clock() - oldest).total_seconds())
            return f"the oldest unfinished event is {age_s} s old: is a consumer running?"
        return ""

    return Part("flow", check, blocks=False)


def workers_part(supervisor: Supervisor, *, blocks: bool) -> Part:
    """Every worker of this process runs."""

    async def check() -> str:
        return "; ".join(f"{state.name}: {state.reason}" for state in supervisor.states if state.reason)

    return Part("workers", check, blocks=blocks)


def refresher(
    queue: EventQueue,
    budgets: Mapping[str, PostgresBudget],
    metrics: Metrics,
    clock: Clock,
    measures: Sequence[Measure] = (),
) -> Measure:
    """Make what brings the figures kept in PostgreSQL up to date before they are shown, those of `measures` as well."""

    async def refresh() -> None:
        now = clock()
        rows = await queue.measure()
        metrics.queue_events.clear()
        metrics.queue_oldest_seconds.clear()
        for row in rows:
            lane = Lane(row.lane).name.lower()
            metrics.queue_events.labels(work=row.work, lane=lane, status=row.status).set(row.count)
        for work in WorkClass:
            metrics.queue_oldest_seconds.labels(work=work.value).set(_oldest_s(rows, work, now))
        for connection, budget in budgets.items():
            left = (await budget.report(now)).left_today
            metrics.budget_left.labels(connection=connection).set(float("inf") if left is None else left)
        for measure in measures:
            await measure()

    return refresh


def truth_ages(freshness: Freshness, metrics: Metrics, clock: Clock) -> Measure:
    """Make what measures the age of truth, which reads every record: once a minute, however often it is asked for."""
    measured_at: datetime | None = None

    async def refresh() -> None:
        nonlocal measured_at
        now = clock()
        if measured_at is not None and timedelta(0) <= now - measured_at < _MEASURED_EVERY:
            return
        rows = await freshness.report(None, now)
        measured_at = now
        metrics.truth_age_seconds.clear()
        for row in rows:
            if row.connection is None:
                ages_s = {"0.5": row.p50_s, "0.95": row.p95_s, "0.99": row.p99_s, "1": row.oldest_s}
                for quantile, age_s in ages_s.items():
                    labels = {"organization": row.organization, "kind": row.kind.value, "quantile": quantile}
                    metrics.truth_age_seconds.labels(**labels).set(age_s)

    return refresh


def _oldest_s(rows: Sequence[QueueMeasure], work: WorkClass, now: datetime) -> float:
    waiting = (row.oldest_received_at for row in rows if row.work == work and row.status != "parked")
    return max(((now - at).total_seconds() for at in waiting if at is not None), default=0.0)
