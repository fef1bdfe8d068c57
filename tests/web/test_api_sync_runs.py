"""How far a sync is, how an organization's went, and stopping one: each to those whom it concerns."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from eventsync.domain.connections import OrganizationId
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.runs import RunLease, RunLost
from web.api_site import Answer, Practice, Site
from web.played_worker import COUNTS, PlayedWorker, completed, now
from web.sync_site import partner_of

SEED_PROGRESS = {
    "sync_id",
    "organization_id",
    "status",
    "progress_percentage",
    "current_step",
    "total_steps",
    "completed_steps",
    "started_at",
    "estimated_completion",
    "records_processed",
    "records_total",
    "current_operation",
    "errors",
}


@pytest.fixture
def worker(site: Site) -> PlayedWorker:
    return PlayedWorker(site.pool)


async def asked(
    site: Site,
    practice: Practice,
    sync_type: SyncType = SyncType.AUTOMATED_DAILY,
    organization_id: OrganizationId | None = None,
) -> Run:
    request = RunRequest(sync_type, practice.connection_id, organization_id or practice.organization_id, "test")
    run, _ = await PlayedWorker(site.pool).runs.request(request, now())
    return run


async def leased(site: Site, worker: PlayedWorker) -> RunLease:
    await asked(site, site.practice)
    return await worker.lease()


async def progress(site: Site, run: Run, token: str | None = None) -> Answer:
    return await site.get(f"/api/v1/sync/progress/{run.id}", token or site.practice.viewer)


async def history(site: Site, organization: str, token: str, **query: str) -> Answer:
    return await site.get(f"/api/v1/sync/history/{organization}", token, **query)


async def cancel(site: Site, run: Run, token: str | None = None) -> Answer:
    return await site.post(f"/api/v1/sync/cancel/{run.id}", token or site.practice.operator)


async def test_a_waiting_run_says_so(site: Site) -> None:
    run = await asked(site, site.practice)
    told = (await progress(site, run)).json
    assert set(told) >= SEED_PROGRESS
    assert (told["status"], told["outcome"], told["progress_percentage"]) == ("starting", None, 0)
    assert told["current_step"] == "Waiting for a worker"
    assert (told["sync_id"], told["organization_id"]) == (str(run.id), str(site.practice.organization_id))
    assert (told["estimated_completion"], told["completed_at"], told["errors"]) == (None, None, [])


async def test_a_running_one_is_as_far_as_its_worker_told(site: Site, worker: PlayedWorker) -> None:
    lease = await leased(site, worker)
    step = {"step": "Processing appointments", "step_number": 4, "total_steps": 4, "percentage": 75.5}
    await worker.tell(lease, RunCounts(), **step, records_seen=490, calls=12, expected_calls=16)
    told = (await progress(site, lease.run)).json
    assert told["status"] == "running"
    assert told["progress_percentage"] == 75.5
    assert (told["current_step"], told["completed_steps"], told["total_steps"]) == ("Processing appointments", 3, 4)
    assert (told["records_processed"], told["records_total"]) == (490, None)
    assert told["current_operation"] == "API call 12 of about 16"
    assert datetime.fromisoformat(told["estimated_completion"]) > datetime.fromisoformat(told["started_at"])


async def test_a_completed_one_is_done_in_full(site: Site, worker: PlayedWorker) -> None:
    lease = await leased(site, worker)
    await worker.tell(lease, percentage=80, step="x", step_number=2, total_steps=3)
    await worker.end(lease, completed())
    told = (await progress(site, lease.run)).json
    assert (told["status"], told["outcome"], told["progress_percentage"]) == ("completed", "completed", 100)
    assert (told["completed_steps"], told["total_steps"], told["errors"]) == (3, 3, [])
    assert told["records_processed"] == told["records_total"] == 12 + 1 + 3 + 5 + 42 + 2
    assert told["completed_at"] is not None
    assert told["stats"]["totalAppointments"] == {"new": 3, "updated": 5, "unchanged": 42, "errors": 2}


@pytest.mark.parametrize(
    ("end", "errors"),
    [
        (RunEnd(RunStatus.PARTIAL_SUCCESS, COUNTS), ["Failed: 1 of the patients, 2 of the appointments"]),
        (
            RunEnd(RunStatus.PARTIAL_SUCCESS, metadata={"stopped_because": "the day's budget is spent"}),
            ["the day's budget is spent"],
        ),
        (
            RunEnd(
                RunStatus.PARTIAL_SUCCESS,
                error_message="Ended early",
                metadata={"errors": [{"patientId": "77", "error": "Patient has no email"}]},
            ),
            ["Patient 77: Patient has no email", "Ended early"],
        ),
    ],
)
async def test_a_partial_success_is_completed_with_errors(
    site: Site, worker: PlayedWorker, end: RunEnd, errors: list[str]
) -> None:
    lease = await leased(site, worker)
    await worker.end(lease, end)
    told = (await progress(site, lease.run)).json
    assert (told["status"], told["outcome"], told["errors"]) == ("completed", "partial_success", errors)


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED])
async def test_one_that_failed_or_was_cancelled_is_not_done(
    site: Site, worker: PlayedWorker, status: RunStatus
) -> None:
    lease = await leased(site, worker)
    await worker.tell(lease, RunCounts(), percentage=40.0)
    await worker.end(lease, RunEnd(status))
    told = (await progress(site, lease.run)).json
    assert (told["status"], told["outcome"], told["progress_percentage"]) == (status.value, status.value, 40.0)
    assert bool(told["errors"]) is (status is RunStatus.FAILED)


async def test_a_run_is_seen_by_who_asked_and_by_the_connections_owner_only(site: Site) -> None:
    partner, token = await partner_of(site)
    run = await asked(site, site.practice, SyncType.MANUAL_ORG_BULK, partner)
    for seeing in (token, site.practice.viewer, site.practice.operator, site.admin):
        assert (await progress(site, run, seeing)).status == 200
    for stranger in (site.other.viewer, site.other.operator):
        answer = await progress(site, run, stranger)
        unknown = await site.get(f"/api/v1/sync/progress/{uuid4()}", stranger)
        assert (answer.status, answer.code, answer.json["error"]) == (404, "unknown_sync", unknown.json["error"])
    as_other = await site.call("GET", f"/api/v1/sync/progress/{run.id}", site.admin, org="practice-2")
    assert as_other.status == 404
    wrong = await site.get("/api/v1/sync/progress/sync_org_123_20250630_120000", site.admin)
    assert (wrong.status, wrong.code) == (400, "invalid_parameter")


async def test_the_history_of_an_organization_that_never_synced_is_empty(site: Site) -> None:
    answer = await history(site, "practice-1", site.practice.viewer)
    assert answer.json == {
        "organization_id": "practice-1",
        "total_syncs": 0,
        "successful_syncs": 0,
        "failed_syncs": 0,
        "last_sync_at": None,
        "last_successful_sync_at": None,
        "average_sync_duration_seconds": None,
        "recent_syncs": [],
    }


async def test_the_history_counts_every_run_and_lists_the_latest(site: Site, worker: PlayedWorker) -> None:
    ends = [
        completed(),
        RunEnd(RunStatus.PARTIAL_SUCCESS, COUNTS),
        RunEnd(RunStatus.FAILED),
        RunEnd(RunStatus.CANCELLED),
    ]
    for end in ends:
        await worker.end(await leased(site, worker), end)
    partner, token = await partner_of(site)
    going_on = await asked(site, site.practice, SyncType.MANUAL_ORG_BULK, partner)
    await asked(site, site.other)
    told = (await history(site, str(site.practice.organization_id), site.practice.viewer, limit="3")).json
    assert (told["total_syncs"], told["successful_syncs"], told["failed_syncs"]) == (5, 2, 1)
    assert told["average_sync_duration_seconds"] >= 0
    assert [sync["outcome"] for sync in told["recent_syncs"]] == [None, "cancelled", "failed"]
    assert told["last_sync_at"] == told["recent_syncs"][0]["started_at"]
    assert told["last_successful_sync_at"] is not None
    everything = (await history(site, "practice-1", site.practice.viewer)).json["recent_syncs"]
    assert everything[3] == {
        "sync_id": str(worker.done[1].id),
        "started_at": everything[3]["started_at"],
        "completed_at": everything[3]["completed_at"],
        "status": "completed",
        "outcome": "partial_success",
        "records_processed": 65,
        "records_success": 62,
        "records_failed": 3,
        "metadata": {"sync_type": "automated_daily", "patients_processed": 12, "appointments_processed": 52},
    }
    partners = (await history(site, str(partner), token)).json
    assert [sync["sync_id"] for sync in partners["recent_syncs"]] == [str(going_on.id)]


async def test_an_organizations_history_is_its_own(site: Site) -> None:
    for name in ("practice-2", str(site.other.organization_id), "nobody", "%2F", "9" * 30):
        answer = await history(site, name, site.practice.operator)
        assert (answer.status, answer.code) == (403, "other_organization"), name
    assert (await history(site, "practice-2", site.admin)).status == 200
    assert (await history(site, "nobody", site.admin)).code == "unknown_organization"
    assert (await history(site, "x" * 201, site.admin)).code == "invalid_parameter"


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "٣"])
async def test_a_wrong_limit_is_told(site: Site, limit: str) -> None:
    answer = await history(site, "practice-1", site.practice.viewer, limit=limit)
    assert (answer.status, answer.code) == (400, "invalid_parameter")
    assert "1 to 100" in answer.json["error"]


async def test_a_run_that_waits_is_cancelled_at_once(site: Site) -> None:
    run = await asked(site, site.practice)
    answer = await cancel(site, run)
    told: dict[str, Any] = {name: answer.json[name] for name in ("success", "sync_id", "status")}
    assert (answer.status, told) == (200, {"success": True, "sync_id": str(run.id), "status": "cancelled"})
    again = await cancel(site, run)
    assert (again.status, again.code) == (409, "already_ended")


async def test_a_run_that_goes_on_is_stopped_by_its_worker(site: Site, worker: PlayedWorker) -> None:
    lease = await leased(site, worker)
    answer = await cancel(site, lease.run)
    assert (answer.status, answer.json["status"]) == (200, "running")
    assert (await progress(site, lease.run)).json["current_operation"] == "Being cancelled"
    assert await worker.runs.heartbeat(lease, now(), now()) is False
    await worker.end(lease, RunEnd(RunStatus.CANCELLED))
    assert (await progress(site, lease.run)).json["status"] == "cancelled"
    with pytest.raises(RunLost):
        await worker.tell(lease)


async def test_only_who_asked_and_the_connections_owner_stop_a_run(site: Site) -> None:
    partner, token = await partner_of(site)
    owners = await asked(site, site.practice)
    partners = await asked(site, site.practice, SyncType.MANUAL_ORG_BULK, partner)
    for stranger, run in ((token, owners), (site.other.operator, owners), (site.other.operator, partners)):
        assert (await cancel(site, run, stranger)).status == 404
    assert (await cancel(site, owners, site.practice.viewer)).status == 403
    assert {run.status for run in await PlayedWorker(site.pool).runs.recent()} == {RunStatus.STARTING}
    assert (await cancel(site, partners, token)).status == 200
    assert (await cancel(site, owners)).status == 200


async def test_an_admin_stops_any_run(site: Site) -> None:
    for practice in (site.practice, site.other):
        assert (await cancel(site, await asked(site, practice), site.admin)).status == 200
    assert (await site.post(f"/api/v1/sync/cancel/{uuid4()}", site.admin)).status == 404
