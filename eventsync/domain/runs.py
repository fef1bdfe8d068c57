"""A run of a sync: one connection read from its vendor, for a reason; asked for, leased, counted and ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId

RunId = NewType("RunId", UUID)


class SyncType(StrEnum):
    """Why a connection is read."""

    AUTOMATED_DAILY = "automated_daily"  # in full, once a day
    AUTOMATED_SWEEP = "automated_sweep"  # what changed, several times a day
    MANUAL_ORG_BULK = "manual_org_bulk"  # a person asked for all patients of their organization: what changed
    MANUAL_PATIENT = "manual_patient"  # a person asked for one patient
    INTERVAL = "interval"  # every so many minutes, as SYNC_INTERVAL_MINUTES says
    BACKFILL = "backfill"  # in full, for the first time
    WEBHOOK = "webhook"


class RunStatus(StrEnum):
    """Where a run stands. starting -> running -> completed | partial_success | failed | cancelled.

    A run whose worker died goes back from running to starting, with its counts and its place.
    """

    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "completed"
    PARTIAL_SUCCESS = "partial_success"  # some of it failed, or the budget ended before it did
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_active(self) -> bool:
        """Whether it has not ended yet."""
        return self in (RunStatus.STARTING, RunStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What a run did, by the names that `sync_logs` has. `appointments_updated` includes deletions and revivals."""

    patients_processed: int = 0
    patients_failed: int = 0
    appointments_new: int = 0
    appointments_updated: int = 0
    appointments_unchanged: int = 0
    appointments_errors: int = 0

    def __add__(self, other: RunCounts) -> RunCounts:
        return RunCounts(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(self)))


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What is asked for. `organization_id` is for whom; `due_at` the schedule's time, answered once whoever asks.

    `options` are the run's own, as JSON values: `days_back`, `days_ahead`, `allow_mass_delete`.
    """

    sync_type: SyncType
    connection_id: ConnectionId
    organization_id: OrganizationId | None
    triggered_by: str
    patient_id: UUID | None = None
    due_at: datetime | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands. `progress` is told to people while it runs; `metadata` explains it once it has ended."""

    id: RunId
    sync_type: SyncType
    status: RunStatus
    connection_id: ConnectionId
    organization_id: OrganizationId | None
    patient_id: UUID | None
    triggered_by: str
    due_at: datetime | None
    options: Mapping[str, Any]
    started_at: datetime
    completed_at: datetime | None
    duration_ms: int | None
    counts: RunCounts
    error_message: str | None
    metadata: Mapping[str, Any]
    progress: Mapping[str, Any]
    attempts: int
    cancel_requested_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: what its row will say."""

    status: RunStatus
    counts: RunCounts = field(default_factory=RunCounts)
    error_message: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
