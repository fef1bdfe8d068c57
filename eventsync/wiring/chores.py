"""Builds the chores of one process: the workers of the `scheduler` role."""

from __future__ import annotations

from datetime import timedelta

from eventsync.domain.clock import Clock
from eventsync.postgres.access import AccessLog, RefusalCounts
from eventsync.postgres.budget import prune_calls
from eventsync.postgres.database import Database
from eventsync.postgres.drift import DriftReport
from eventsync.postgres.freshness import prune_coverage
from eventsync.postgres.linking import PatientLinks
from eventsync.postgres.listener import Listener
from eventsync.postgres.retention import Retention
from eventsync.postgres.runs import Runs
from eventsync.postgres.schedules import Schedules
from eventsync.settings import Settings
from eventsync.stages.recurring import Recurring
from eventsync.stages.schedule import Scheduler
from eventsync.stages.silence import SilenceWatch
from eventsync.stages.upkeep import Upkeep
from eventsync.supervisor import Worker
from eventsync.telemetry import Metrics

_SYNCED_VENDORS = ("intakeq",)  # by name: this role loads no vendor


def make_scheduler(database: Database, listener: Listener, clock: Clock) -> Worker:
    """Make the worker that asks for the runs that the connections' schedules want."""
    return Scheduler(Schedules(database), Runs(database), listener, clock, vendors=_SYNCED_VENDORS)


def make_chores(
    database: Database, retention: Retention, settings: Settings, metrics: Metrics, clock: Clock
) -> list[Worker]:
    """Make the workers; each does its chore now and then."""
    history = timedelta(days=settings.history_retention_days)
    links, drift = PatientLinks(database), DriftReport(database)
    silence = SilenceWatch(drift, metrics)
    upkeep = Upkeep(
        retention, clock, raw_days=settings.raw_retention_days, history_days=settings.history_retention_days
    )

    async def forget_evidence() -> None:
        now = clock()
        await prune_calls(database, now)
        await prune_coverage(database)
        await drift.prune(now - history)
        await RefusalCounts(database).prune(now - history)
        await AccessLog(database).prune(now - history)

    return [
        upkeep,
        Recurring("patient-linking", lambda: links.link_by_email(clock()), interval_s=60.0),
        Recurring("client-ids", lambda: links.backfill_client_ids(clock()), interval_s=600.0),
        Recurring("webhook-silence", lambda: silence.run_once(clock()), interval_s=300.0),
        Recurring("evidence", forget_evidence, interval_s=3600.0),
    ]
