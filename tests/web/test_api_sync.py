"""Syncs asked for over the API: the daily run by cron, and "refresh all", each for whom it may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from eventsync.domain.runs import Run, RunCounts, RunEnd, RunStatus, SyncType
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from eventsync.postgres.tenants import NewConnection
from eventsync.wiring.api import make_api
from eventsync.wiring.process import Process
from servers.eventually import eventually
from web.api_site import NOW, Answer, Practice, Site
from web.played_worker import COUNTS, PlayedWorker, completed
from web.sync_site import asked_for, connections_of, disable, follow, hasty_site, local_patient, partner_of, runs_of

CRON = "/api/cron/sync-practiceq-appointments"
SYNC_ALL = "/api/partner-dashboard/patients/sync-all"
METADATA: dict[str, Any] = {"totalPatients": 13, "newPatientsDiscovered": 2, "unaffiliatedPatientsSynced": 4}


@pytest.fixture
def worker(site: Site) -> PlayedWorker:
    return PlayedWorker(site.pool)


@pytest.fixture
async def hasty(site: Site, api_process: Process) -> AsyncIterator[Site]:
    """The same site, whose answers do not wait long."""
    async with hasty_site(site, api_process) as served:
        yield served


@pytest.fixture
async def one_connection(site: Site) -> Practice:
    """The practice whose connection is the only living one."""
    await disable(site, site.other)
    return site.practice


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_daily_run_answers_with_what_it_did(
    site: Site, one_connection: Practice, worker: PlayedWorker, method: str
) -> None:
    errors = [{"patientId": str(uuid4()), "error": "Patient has no email"}]
    async with worker.working(lambda _: completed(**METADATA, errors=errors)) as done:
        answer = await site.call(method, CRON, site.admin)
    (run,) = done
    assert run.sync_type is SyncType.AUTOMATED_DAILY
    assert (run.connection_id, run.organization_id) == (one_connection.connection_id, one_connection.organization_id)
    assert run.triggered_by.startswith("token:")
    assert answer.status == 200
    assert answer.json == {
        "success": True,
        "syncLogId": str(run.id),
        "status": "completed",
        "stats": {
            "totalPatients": 13,
            "newPatientsDiscovered": 2,
            "unaffiliatedPatientsSynced": 4,
            "patientsProcessed": 12,
            "patientsFailed": 1,
            "totalAppointments": {"new": 3, "updated": 5, "unchanged": 42, "errors": 2},
            "duration": run.duration_ms,
            "errors": errors,
        },
        "runs": [
            {
                "syncLogId": str(run.id),
                "connectionId": str(run.connection_id),
                "status": "completed",
                "error": None,
                "progressUrl": f"/api/v1/sync/progress/{run.id}",
            }
        ],
    }


async def test_calls_that_come_together_share_one_run(
    hasty: Site, one_connection: Practice, worker: PlayedWorker
) -> None:
    calls = [hasty.post(CRON, hasty.admin) for _ in range(5)]
    answers = await asyncio.gather(*calls)
    lease = await worker.lease()
    answers.append(await hasty.call("GET", CRON, hasty.admin))
    assert {answer.status for answer in answers} == {202}
    assert {answer.json["syncLogId"] for answer in answers} == {str(lease.run.id)}
    assert len(await runs_of(hasty)) == 1


async def test_several_connections_are_summed_and_told_one_by_one(site: Site, worker: PlayedWorker) -> None:
    async with worker.working(lambda _: completed(**METADATA)) as done:
        answer = await site.post(CRON, site.admin)
    by_connection = {run.connection_id: run for run in done}
    first, second = by_connection[site.practice.connection_id], by_connection[site.other.connection_id]
    assert answer.json["syncLogId"] == str(first.id)
    assert [run["syncLogId"] for run in answer.json["runs"]] == [str(first.id), str(second.id)]
    stats = answer.json["stats"]
    assert stats["totalAppointments"] == {"new": 6, "updated": 10, "unchanged": 84, "errors": 4}
    assert (stats["totalPatients"], stats["newPatientsDiscovered"], stats["patientsProcessed"]) == (26, 4, 24)
    assert stats["duration"] >= max(run.duration_ms or 0 for run in done)


async def test_one_connections_failure_leaves_the_others_success(site: Site, worker: PlayedWorker) -> None:
    failed = RunEnd(RunStatus.FAILED, error_message="Failed to fetch from PracticeQ")

    def end(run: Run) -> RunEnd:
        return failed if run.connection_id == site.practice.connection_id else completed()

    async with worker.working(end):
        answer = await site.post(CRON, site.admin)
    assert (answer.status, answer.json["success"], answer.json["status"]) == (200, True, "partial_success")
    assert answer.json["stats"]["errors"] == [{"patientId": None, "error": "Failed to fetch from PracticeQ"}]
    assert [run["error"] for run in answer.json["runs"]] == ["Failed to fetch from PracticeQ", None]


async def test_a_partial_success_is_a_success_that_says_so(
    site: Site, one_connection: Practice, worker: PlayedWorker
) -> None:
    errors = [{"patientId": "77", "error": "Unknown practitioner 9"}]
    async with worker.working(lambda _: RunEnd(RunStatus.PARTIAL_SUCCESS, COUNTS, metadata={"errors": errors})):
        answer = await site.post(CRON, site.admin)
    assert (answer.status, answer.json["success"], answer.json["status"]) == (200, True, "partial_success")
    assert answer.json["stats"]["errors"] == errors


@pytest.mark.parametrize(("path", "who"), [(CRON, "admin"), (SYNC_ALL, "operator")])
async def test_a_failed_run_is_an_error_that_names_it(
    site: Site, one_connection: Practice, worker: PlayedWorker, path: str, who: str
) -> None:
    token = site.admin if who == "admin" else one_connection.operator
    ends = RunEnd(RunStatus.FAILED, error_message="Failed to fetch from PracticeQ")
    async with worker.working(lambda _: ends) as done:
        answer = await site.post(path, token)
    assert answer.status == 500
    assert answer.json.pop("syncLogId") == str(done[0].id)
    assert answer.code == "sync_failed"
    assert answer.json["error"] == "Failed to fetch from PracticeQ"


async def test_a_failure_without_a_reason_says_where_it_stands(
    site: Site, one_connection: Practice, worker: PlayedWorker
) -> None:
    async with worker.working(lambda _: RunEnd(RunStatus.FAILED)):
        answer = await site.post(CRON, site.admin)
    assert "log of the worker" in answer.json["error"]


async def test_a_cancelled_run_is_a_conflict(site: Site, one_connection: Practice, worker: PlayedWorker) -> None:
    async with worker.working(lambda _: RunEnd(RunStatus.CANCELLED)):
        answer = await site.post(CRON, site.admin)
    answer.json.pop("syncLogId")
    assert (answer.status, answer.code) == (409, "sync_cancelled")


async def test_without_a_living_practiceq_connection_it_says_what_to_do(site: Site) -> None:
    for practice in (site.practice, site.other):
        await disable(site, practice)
    async with site.pool.session() as session:
        await session.execute(
            "INSERT INTO connections (organization_id, vendor, base_url, api_key_sealed)"
            " VALUES ($1, 'cliniko', 'http://127.0.0.1:9', '')",
            site.practice.organization_id,
        )
    for path, token in ((CRON, site.admin), (SYNC_ALL, site.practice.operator)):
        answer = await site.post(path, token)
        assert (answer.status, answer.code) == (404, "no_connection")
        assert "eventsync connections add intakeq" in answer.json["error"]
    assert await runs_of(site) == []


async def test_a_longer_run_is_answered_with_where_to_ask_on_and_goes_on(
    hasty: Site, one_connection: Practice, worker: PlayedWorker
) -> None:
    answer = await hasty.post(CRON, hasty.admin)
    assert answer.status == 202
    (run,) = await runs_of(hasty)
    url = f"/api/v1/sync/progress/{run.id}"
    told = {name: answer.json[name] for name in ("success", "syncLogId", "status", "progressUrl")}
    assert told == {"success": True, "syncLogId": str(run.id), "status": "running", "progressUrl": url}
    assert [each["status"] for each in answer.json["runs"]] == ["starting"]
    lease = await worker.lease()
    assert (await hasty.get(url, hasty.admin)).json["status"] == "running"
    await worker.end(lease, completed())
    progress = (await hasty.get(url, hasty.admin)).json
    assert (progress["status"], progress["stats"]["totalAppointments"]["unchanged"]) == ("completed", 42)


async def test_of_several_the_first_that_goes_on_is_named(
    site: Site, api_process: Process, worker: PlayedWorker
) -> None:
    async with hasty_site(site, api_process, answer_within_s=1.0) as patient_site:
        task = await asked_for(patient_site, site.other, patient_site.post(CRON, site.admin))
        leases = {lease.run.connection_id: lease for lease in [await worker.lease(), await worker.lease()]}
        first, second = leases[site.practice.connection_id], leases[site.other.connection_id]
        await worker.end(first, completed())
        answer = await task
    assert (answer.status, answer.json["syncLogId"]) == (202, str(second.run.id))
    assert answer.json["progressUrl"].endswith(str(second.run.id))
    assert [run["status"] for run in answer.json["runs"]] == ["completed", "running"]


async def test_whoever_goes_away_does_not_stop_the_run(
    site: Site, one_connection: Practice, worker: PlayedWorker
) -> None:
    with pytest.raises(TimeoutError):
        async with site.http.post(
            site.address + CRON,
            headers={"Authorization": f"Bearer {site.admin}"},
            timeout=aiohttp.ClientTimeout(total=0.5),
        ):
            pass
    lease = await worker.lease()
    await worker.tell(lease)
    assert (await worker.end(lease, completed())).status is RunStatus.COMPLETED


async def test_a_process_that_stops_answers_those_who_wait(site: Site, api_process: Process) -> None:
    app = web.Application()
    parts = api_process.database, site.keyring, api_process.connections, api_process.queue, api_process.clock
    make_api(*parts).add_routes(app)
    server = TestServer(app)
    await server.start_server()
    stopping = replace(site, address=str(server.make_url("")).rstrip("/"))
    waiting = asyncio.create_task(stopping.post(CRON, site.admin))
    await eventually(lambda: runs_of(site))
    async with asyncio.timeout(5):
        await server.close()
        assert (await waiting).status == 202


async def test_a_body_or_a_parameter_is_refused(site: Site) -> None:
    for path, token in ((CRON, site.admin), (SYNC_ALL, site.practice.operator)):
        body = await site.call("POST", path, token, data=b'{"mode":"full"}')
        assert (body.status, body.code) == (400, "unexpected_body")
        assert (await site.post(path, token, mode="full")).code == "unknown_parameter"
    assert await runs_of(site) == []


async def test_refresh_all_reads_what_changed_of_the_organizations_own_connections(
    site: Site, worker: PlayedWorker
) -> None:
    async with worker.working(lambda _: completed(**METADATA)) as done:
        answer = await site.post(SYNC_ALL, site.practice.operator)
    (run,) = done
    assert (run.sync_type, run.options) == (SyncType.MANUAL_ORG_BULK, {"mode": "changes"})
    assert (run.connection_id, run.organization_id) == (site.practice.connection_id, site.practice.organization_id)
    assert answer.status == 200
    assert answer.json["summary"] == {"new": 3, "updated": 5, "unchanged": 42, "errors": 2}
    assert answer.json["stats"]["patientsProcessed"] == 12
    assert {"success", "syncLogId", "status", "summary", "stats", "runs"} == set(answer.json)


async def test_an_admin_says_whose_patients_are_meant(site: Site, worker: PlayedWorker) -> None:
    answer = await site.post(SYNC_ALL, site.admin)
    assert (answer.status, answer.code) == (400, "missing_organization")
    async with worker.working(lambda _: completed()) as done:
        assert (await site.call("POST", SYNC_ALL, site.admin, org="practice-2")).status == 200
    assert [run.organization_id for run in done] == [site.other.organization_id]


async def test_a_viewer_refreshes_nothing(site: Site) -> None:
    answer = await site.post(SYNC_ALL, site.practice.viewer)
    assert (answer.status, answer.code) == (403, "role_not_allowed")
    assert await runs_of(site) == []


async def test_a_partner_refreshes_the_connections_of_those_it_follows(site: Site, worker: PlayedWorker) -> None:
    partner, token = await partner_of(site)
    assert (await site.post(SYNC_ALL, token)).code == "no_connection"
    followed, stranger = await site.client(site.practice, "12"), await site.client(site.practice, "13")
    await site.client(site.other, "14")
    await follow(site, followed, partner)
    errors = [{"patientId": each, "error": "Patient has no email"} for each in (str(followed), str(stranger), "77")]
    async with worker.working(lambda _: completed(errors=errors)) as done:
        answer = await site.post(SYNC_ALL, token)
    assert [(run.connection_id, run.organization_id) for run in done] == [(site.practice.connection_id, partner)]
    assert answer.json["stats"]["errors"] == [errors[0]]
    progress = await site.get(answer.json["runs"][0]["progressUrl"], token)
    assert progress.json["errors"] == [f"Patient {followed}: Patient has no email"]
    owner = await site.get(answer.json["runs"][0]["progressUrl"], site.practice.viewer)
    assert len(owner.json["errors"]) == 3


@pytest.mark.parametrize(
    "terms",
    [
        AffiliationTerms(start_date=(NOW + timedelta(days=2)).date()),
        AffiliationTerms(start_date=(NOW - timedelta(days=9)).date(), end_date=(NOW - timedelta(days=2)).date()),
        AffiliationTerms(consent_expires_on=(NOW - timedelta(days=2)).date()),
    ],
)
async def test_who_follows_nobody_today_refreshes_nothing(site: Site, terms: AffiliationTerms) -> None:
    partner, token = await partner_of(site)
    await follow(site, await site.client(site.practice, "12"), partner, terms)
    assert (await site.post(SYNC_ALL, token)).code == "no_connection"


async def test_an_ended_affiliation_refreshes_nothing(site: Site) -> None:
    partner, token = await partner_of(site)
    affiliation = await follow(site, await site.client(site.practice, "12"), partner)
    await Affiliations(site.pool).end(affiliation, None, NOW.date(), NOW)
    assert (await site.post(SYNC_ALL, token)).code == "no_connection"


async def test_whom_no_vendor_knows_yet_may_turn_up_on_any_connection_of_the_owner(
    site: Site, worker: PlayedWorker
) -> None:
    partner, token = await partner_of(site)
    key = "key-of-a-second"
    new = NewConnection(site.practice.organization_id, "intakeq", key, base_url="http://127.0.0.1:9/api/v1")
    await connections_of(site).add(new, NOW)
    local = await local_patient(site)
    await follow(site, local, partner)
    async with worker.working(lambda _: completed()) as done:
        answer = await site.post(SYNC_ALL, token)
    assert answer.status == 200
    assert len(done) == 2
    assert {run.organization_id for run in done} == {partner}


async def test_two_organizations_wishes_are_two_runs_one_after_the_other(site: Site, worker: PlayedWorker) -> None:
    partner, token = await partner_of(site)
    await follow(site, await site.client(site.practice, "12"), partner)
    calls = [asyncio.create_task(site.post(SYNC_ALL, each)) for each in (token, site.practice.operator)]
    await eventually(lambda: _count(site, 2))
    async with worker.working(lambda _: completed(RunCounts(appointments_new=1))) as done:
        answers: list[Answer] = await asyncio.gather(*calls)
    assert {run.organization_id for run in done} == {partner, site.practice.organization_id}
    assert len({answer.json["syncLogId"] for answer in answers}) == 2


async def _count(site: Site, wanted: int) -> bool:
    return len(await runs_of(site)) == wanted
