"""How far a run is, and how past ones went: the objects that clients of the older sync API poll for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from eventsync.domain.connections import OrganizationId
from eventsync.domain.runs import Run, RunCounts, RunId, RunStatus, SyncType
from eventsync.postgres.sync_reports import PastRun, PatientProblem, RunFigures
from eventsync.web.sync_answers import SyncStats, stats_of


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """A sync as it stands; `stats` are what it did so far.

    A partial success is `completed` with `errors`, as its clients wait for `completed` or `failed`; `outcome` says
    which it was, once it has ended. `records_total` is known at the end only, `estimated_completion` while it runs.
    """

    sync_id: RunId
    organization_id: OrganizationId | None
    status: str
    outcome: str | None
    progress_percentage: float
    current_step: str
    total_steps: int
    completed_steps: int
    started_at: datetime
    completed_at: datetime | None
    estimated_completion: datetime | None
    records_processed: int
    records_total: int | None
    current_operation: str
    errors: tuple[str, ...]
    stats: SyncStats


@dataclass(frozen=True, slots=True)
class PastSyncFacts:
    """What is told of a past sync beside its records. `patients_processed` are those whom an organization follows."""

    sync_type: SyncType
    patients_processed: int
    appointments_processed: int


@dataclass(frozen=True, slots=True)
class PastSync:
    """A sync in the history, its records being patients and appointments; see `SyncProgress` for `outcome`."""

    sync_id: RunId
    started_at: datetime
    completed_at: datetime | None
    status: str
    outcome: str | None
    records_processed: int
    records_success: int
    records_failed: int
    metadata: PastSyncFacts


@dataclass(frozen=True, slots=True)
class SyncHistory:
    """How an organization's syncs went: those it asked for, and those of its own connections."""

    organization_id: str
    total_syncs: int
    successful_syncs: int
    failed_syncs: int
    last_sync_at: datetime | None
    last_successful_sync_at: datetime | None
    average_sync_duration_seconds: float | None
    recent_syncs: tuple[PastSync, ...]


def progress_of(run: Run, problems: Sequence[PatientProblem], now: datetime) -> SyncProgress:
    """Draw a run; `problems` are those that may be shown."""
    step, steps = _int(run, "step_number"), _int(run, "total_steps")
    is_done = run.status in (RunStatus.COMPLETED, RunStatus.PARTIAL_SUCCESS)
    percentage = 100.0 if is_done else min(float(run.progress.get("percentage") or 0), 100.0)
    seen = max(_int(run, "records_seen"), _records(run.counts))
    return SyncProgress(
        sync_id=run.id,
        organization_id=run.organization_id,
        status=_shown(run.status),
        outcome=_outcome(run.status),
        progress_percentage=percentage,
        current_step=_step(run),
        total_steps=max(steps, 1),
        completed_steps=max(steps, 1) if is_done else max(step - 1, 0),
        started_at=run.started_at,
        completed_at=run.completed_at,
        estimated_completion=_estimate(run, percentage, now),
        records_processed=seen,
        records_total=None if run.status.is_active else seen,
        current_operation=_operation(run),
        errors=_errors(run, problems),
        stats=stats_of([run], problems, now),
    )


def history_of(organization: str, figures: RunFigures, latest: Sequence[PastRun]) -> SyncHistory:
    """Draw an organization's runs; `organization` is how the caller named it."""
    return SyncHistory(
        organization_id=organization,
        total_syncs=figures.total,
        successful_syncs=figures.successful,
        failed_syncs=figures.failed,
        last_sync_at=figures.last_at,
        last_successful_sync_at=figures.last_successful_at,
        average_sync_duration_seconds=figures.average_duration_s,
        recent_syncs=tuple(map(_past_sync, latest)),
    )


def _past_sync(run: PastRun) -> PastSync:
    counts = run.counts
    failed = counts.patients_failed + counts.appointments_errors
    return PastSync(
        sync_id=run.id,
        started_at=run.started_at,
        completed_at=run.completed_at,
        status=_shown(run.status),
        outcome=_outcome(run.status),
        records_processed=_records(counts),
        records_success=_records(counts) - failed,
        records_failed=failed,
        metadata=PastSyncFacts(run.sync_type, counts.patients_processed, _appointments(counts)),
    )


def _shown(status: RunStatus) -> str:
    return (RunStatus.COMPLETED if status is RunStatus.PARTIAL_SUCCESS else status).value


def _outcome(status: RunStatus) -> str | None:
    return None if status.is_active else status.value


def _step(run: Run) -> str:
    match run.status:
        case RunStatus.STARTING:
            return "Waiting for a worker"
        case RunStatus.RUNNING:
            return str(run.progress.get("step") or "Beginning")
        case _:
            return "Ended"


def _operation(run: Run) -> str:
    if run.cancel_requested_at is not None and run.status is RunStatus.RUNNING:
        return "Being cancelled"
    if not run.status.is_active:
        return "None"
    return f"API call {_int(run, 'calls')} of about {max(_int(run, 'expected_calls'), _int(run, 'calls'))}"


def _estimate(run: Run, percentage: float, now: datetime) -> datetime | None:
    if run.status is not RunStatus.RUNNING or not 0 < percentage < 100:
        return None
    return run.started_at + max(now - run.started_at, now - now) * (100 / percentage)


def _errors(run: Run, problems: Sequence[PatientProblem]) -> tuple[str, ...]:
    """Say what went wrong: never nothing where the run was no full success."""
    told = [each.text if each.patient_id is None else f"Patient {each.patient_id}: {each.text}" for each in problems]
    told += [text for text in (run.error_message, run.metadata.get("stopped_because")) if text]
    if not told and run.status is RunStatus.PARTIAL_SUCCESS:
        failed = run.counts.patients_failed, run.counts.appointments_errors
        told.append("Failed: {} of the patients, {} of the appointments".format(*failed))
    if not told and run.status is RunStatus.FAILED:
        told.append("The sync failed: the log of the worker says why.")
    return tuple(dict.fromkeys(told))


def _records(counts: RunCounts) -> int:
    return counts.patients_processed + counts.patients_failed + _appointments(counts)


def _appointments(counts: RunCounts) -> int:
    return (
        counts.appointments_new
        + counts.appointments_updated
        + counts.appointments_unchanged
        + counts.appointments_errors
    )


def _int(run: Run, name: str) -> int:
    return int(run.progress.get(name) or 0)
