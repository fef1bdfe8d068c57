"""The refresh of one patient: who may ask for it, for which days, and what it is answered with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.records import RecordKind, record_id_of
from eventsync.domain.runs import RunCounts, RunEnd, RunStatus, SyncType
from eventsync.postgres.access import Role
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from eventsync.web.api_patient_sync import read_date_range
from eventsync.wiring.process import Process
from web.api_site import DAY, NOW, Answer, Practice, Site
from web.played_worker import PlayedWorker, completed
from web.sync_site import asked_for, disable, follow, hasty_site, local_patient, partner_of, runs_of

FEW = RunCounts(1, 0, 1, 1, 0, 0)


@pytest.fixture
def worker(site: Site) -> PlayedWorker:
    return PlayedWorker(site.pool)


@pytest.fixture
async def hasty(site: Site, api_process: Process) -> AsyncIterator[Site]:
    """The same site, whose answers do not wait long."""
    async with hasty_site(site, api_process) as served:
        yield served


def path_of(patient_id: UUID | str) -> str:
    return f"/api/partner-dashboard/patients/{patient_id}/sync"


def appointment_id(practice: Practice, external_id: str) -> str:
    return str(record_id_of(practice.connection_id, RecordKind.APPOINTMENT, external_id))


def did(practice: Practice, **actions: str) -> list[dict[str, str]]:
    """What a run's metadata tells of appointments, by their external id."""
    return [{"id": appointment_id(practice, key), "syncAction": action} for key, action in actions.items()]


async def sync(site: Site, patient_id: UUID, token: str, body: bytes | None = None) -> Answer:
    return await site.call("POST", path_of(patient_id), token, data=body)


async def test_a_refresh_answers_with_the_patients_appointments(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    await site.appointment(site.practice, "a2", "12", NOW + DAY)
    await site.appointment(site.practice, "a1", "12", NOW - DAY)
    async with site.pool.session() as session:
        await session.execute(
            "UPDATE appointments SET practitioner_external_id = '5', practitioner_name = 'Test Doctor'"
        )
        await session.execute(
            "INSERT INTO provider_intakeq_settings (connection_id, practitioner_id, provider_name)"
            " VALUES ($1, '5', 'Test Provider')",
            site.practice.connection_id,
        )
    failed = {"id": str(uuid4()), "syncAction": "error", "errorMessage": "it has no start"}
    metadata = {
        "appointments": [*did(site.practice, a2="created", a1="updated"), failed],
        "warnings": ["Unknown practitioner 9"],
    }
    counts = RunCounts(1, 0, 1, 1, 0, 1)
    async with worker.working(lambda _: completed(counts, **metadata)) as done:
        answer = await sync(site, patient, site.practice.operator)
    (run,) = done
    assert (run.sync_type, run.patient_id, run.options) == (SyncType.MANUAL_PATIENT, patient, {})
    assert (run.connection_id, run.organization_id) == (site.practice.connection_id, site.practice.organization_id)
    assert answer.status == 200
    assert run.completed_at is not None
    assert answer.json.pop("syncedAt") == run.completed_at.isoformat().replace("+00:00", "Z")
    shown = {"providerName": "Test Provider", "errorMessage": None}
    times = [(NOW + days * DAY).isoformat().replace("+00:00", "Z") for days in (-1, 1)]
    ids = [appointment_id(site.practice, name) for name in ("a1", "a2")]
    nothing = dict.fromkeys(("pqAppointmentId", "startTime", "providerName", "status"))
    assert answer.json == {
        "success": False,
        "patientId": str(patient),
        "patientName": "Test Client",
        "patientEmail": "client12@example.test",
        "summary": {"new": 1, "updated": 1, "unchanged": 0, "errors": 1},
        "appointments": [
            {
                "id": ids[0],
                "pqAppointmentId": "a1",
                "startTime": times[0],
                "status": "completed",
                "syncAction": "updated",
            }
            | shown,
            {
                "id": ids[1],
                "pqAppointmentId": "a2",
                "startTime": times[1],
                "status": "confirmed",
                "syncAction": "created",
            }
            | shown,
            nothing | failed,
        ],
        "warnings": ["Unknown practitioner 9"],
        "syncLogId": str(run.id),
    }


async def test_a_refresh_without_errors_is_a_success(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    async with worker.working(lambda _: completed(FEW)):
        answer = await sync(site, patient, site.practice.operator)
    assert (answer.json["success"], answer.json["appointments"], answer.json["warnings"]) == (True, [], [])


async def test_a_deleted_appointment_does_not_look_as_if_it_stood(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    await site.appointment(site.practice, "a1", "12")
    async with site.pool.session() as session:
        await session.execute("UPDATE appointments SET deleted_at = now()")
    async with worker.working(lambda _: completed(FEW, appointments=did(site.practice, a1="updated"))):
        answer = await sync(site, patient, site.practice.operator)
    assert [each["status"] for each in answer.json["appointments"]] == ["cancelled"]


async def test_an_appointment_that_is_anothers_by_now_is_not_shown(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    await site.client(site.practice, "13")
    await site.appointment(site.practice, "a1", "13")
    async with worker.working(lambda _: completed(FEW, appointments=did(site.practice, a1="updated"))):
        answer = await sync(site, patient, site.practice.operator)
    assert answer.json["appointments"] == []


async def test_a_run_that_ended_early_says_why(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    end = RunEnd(RunStatus.PARTIAL_SUCCESS, FEW, "The budget ended.", {"warnings": ["Unknown practitioner 9"]})
    async with worker.working(lambda _: end):
        answer = await sync(site, patient, site.practice.operator)
    assert (answer.status, answer.json["success"]) == (200, True)
    assert answer.json["warnings"] == ["Unknown practitioner 9", "The budget ended."]


async def test_a_failed_refresh_is_an_error_that_names_it(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    async with worker.working(lambda _: RunEnd(RunStatus.FAILED, error_message="Patient has no email")) as done:
        answer = await sync(site, patient, site.practice.operator)
    assert answer.json.pop("syncLogId") == str(done[0].id)
    assert (answer.status, answer.code, answer.json["error"]) == (500, "sync_failed", "Patient has no email")


async def test_a_longer_refresh_is_answered_with_where_to_ask_on(hasty: Site, worker: PlayedWorker) -> None:
    patient = await hasty.client(hasty.practice, "12")
    answer = await sync(hasty, patient, hasty.practice.operator)
    (run,) = await runs_of(hasty)
    assert (answer.status, answer.json["progressUrl"]) == (202, f"/api/v1/sync/progress/{run.id}")
    assert "Client" not in str(answer.json)
    assert await hasty.accesses() == []


async def test_the_days_of_the_body_are_the_runs(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    bodies = [
        (
            b'{"dateRange":{"startDate":"2026-03-01","endDate":"2026-05-31"}}',
            {"from": "2026-03-01", "to": "2026-05-31"},
        ),
        (
            b' {"dateRange":{"endDate":"2024-02-29","startDate":"2024-02-29"}}\n',
            {"from": "2024-02-29", "to": "2024-02-29"},
        ),
        (
            b'{"dateRange":{"startDate":"2024-01-01","endDate":"2025-12-31"}}',
            {"from": "2024-01-01", "to": "2025-12-31"},
        ),
        (b'{"dateRange":null}', {}),
        (b"{}", {}),
        (b"  \n", {}),
        (None, {}),
    ]
    async with worker.working(lambda _: completed(FEW)) as done:
        for body, _ in bodies:
            assert (await sync(site, patient, site.practice.operator, body)).status == 200, body
    assert [run.options for run in done] == [options for _, options in bodies]


WRONG = [
    b"{",
    b"not json",
    b"startDate=2026-03-01",
    b'{"dateRange":{"startDate":"2026-03-01","endDate":"2026-03-02"}',
    b"\xff\xfe{}",
    b"\x1f\x8b\x08\x00",
    b'{"dateRange": NaN}',
    b"[" * 2000,
    b"[]",
    b"null",
    b"3",
    b'"2026-03-01"',
    b'[{"startDate":"2026-03-01","endDate":"2026-03-02"}]',
    b'{"daterange":{"startDate":"2026-03-01","endDate":"2026-03-02"}}',
    b'{"startDate":"2026-03-01","endDate":"2026-03-02"}',
    b'{"dateRange":"2026-03-01"}',
    b'{"dateRange":[]}',
    b'{"dateRange":{}}',
    b'{"dateRange":false}',
    b'{"dateRange":{"startDate":"2026-03-01"}}',
    b'{"dateRange":{"startDate":"2026-03-01","endDate":null}}',
    b'{"dateRange":{"startDate":"2026-03-01","endDate":"2026-03-02","zone":"UTC"}}',
    b'{"dateRange":{"startDate":20260301,"endDate":20260302}}',
    b'{"dateRange":{"startDate":"20260301","endDate":"20260302"}}',
    b'{"dateRange":{"startDate":"2026-W10-1","endDate":"2026-W10-2"}}',
    b'{"dateRange":{"startDate":"2026-03-01T00:00:00Z","endDate":"2026-03-02"}}',
    b'{"dateRange":{"startDate":"2026-02-29","endDate":"2026-03-02"}}',
    b'{"dateRange":{"startDate":"Test Client","endDate":"2026-03-02"}}',
    '{"dateRange":{"startDate":"٢٠٢٦-03-01","endDate":"2026-03-02"}}'.encode(),
    b'{"dateRange":{"startDate":"2026-03-02","endDate":"2026-03-01"}}',
    b'{"dateRange":{"startDate":"2024-01-01","endDate":"2026-01-01"}}',
    b'{"dateRange":{"startDate":"0001-01-01","endDate":"0001-01-02"}}',
    b'{"dateRange":{"startDate":"9999-12-30","endDate":"9999-12-31"}}',
]


async def test_a_wrong_body_is_told_what_is_expected_without_quoting_it(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    for body in WRONG:
        answer = await sync(site, patient, site.practice.operator, body)
        assert (answer.status, answer.code) == (400, "invalid_body"), body
        advice = "openapi.json", "dateRange", "2026-03-31", "endDate is before startDate"
        assert any(text in answer.json["error"] for text in advice), body
        assert "Test Client" not in answer.json["error"]
    assert await runs_of(site) == []


async def test_a_large_body_is_refused(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    answer = await site.call("POST", path_of(patient), site.practice.operator, data=BytesIO(b" " * 2 * 1024 * 1024))
    assert answer.status == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates().map(str),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dateRange", "startDate", "endDate", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["dateRange", "startDate", "Secretname"]), JSON, max_size=2))
def test_whatever_a_body_holds_becomes_days_or_advice(body: dict[str, Any]) -> None:
    try:
        options = read_date_range(body)
    except ValueError as error:
        assert "Secretname" not in str(error)  # noqa: PT017  # either outcome is right
    else:
        assert not options or options["from"] <= options["to"]


async def test_only_those_who_own_or_follow_a_patient_refresh_them(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    partner, token = await partner_of(site)
    unknown = await sync(site, uuid4(), token)
    for stranger in (token, site.other.operator):
        answer = await sync(site, patient, stranger)
        assert (answer.status, answer.json["error"]) == (404, unknown.json["error"])
    assert (await sync(site, patient, site.practice.viewer)).status == 403
    assert await runs_of(site) == []
    await follow(site, patient, partner)
    await site.appointment(site.practice, "a1", "12")
    async with worker.working(lambda _: completed(FEW, appointments=did(site.practice, a1="created"))) as done:
        answer = await sync(site, patient, token)
    assert (answer.status, answer.json["patientName"]) == (200, "Test Client")
    assert [each["pqAppointmentId"] for each in answer.json["appointments"]] == ["a1"]
    assert [(run.connection_id, run.organization_id) for run in done] == [(site.practice.connection_id, partner)]


@pytest.mark.parametrize(
    "terms",
    [
        AffiliationTerms(start_date=(NOW + 2 * DAY).date()),
        AffiliationTerms(start_date=(NOW - 9 * DAY).date(), end_date=(NOW - 2 * DAY).date()),
        AffiliationTerms(consent_expires_on=(NOW - 2 * DAY).date()),
    ],
)
async def test_a_partner_without_consent_of_today_sees_no_patient(site: Site, terms: AffiliationTerms) -> None:
    patient = await site.client(site.practice, "12")
    partner, token = await partner_of(site)
    await follow(site, patient, partner, terms)
    answer = await sync(site, patient, token)
    assert (answer.status, answer.code) == (404, "unknown_patient")
    assert await runs_of(site) == []


async def test_a_consent_that_ends_meanwhile_keeps_the_answer_back(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    partner, token = await partner_of(site)
    affiliation = await follow(site, patient, partner)
    waiting = asyncio.create_task(sync(site, patient, token))
    lease = await worker.lease()
    await Affiliations(site.pool).end(affiliation, None, (NOW - timedelta(days=2)).date(), NOW)
    await worker.end(lease, completed(FEW))
    answer = await waiting
    assert (answer.status, answer.code) == (404, "unknown_patient")
    assert (await site.get(f"/api/v1/sync/progress/{lease.run.id}", site.other.viewer)).status == 404


async def test_an_admin_refreshes_any_patient_for_their_owner(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    async with worker.working(lambda _: completed(FEW)) as done:
        assert (await sync(site, patient, site.admin)).status == 200
        named = await site.call("POST", path_of(patient), site.admin, org="practice-2")
    assert [run.organization_id for run in done] == [site.practice.organization_id]
    assert (named.status, named.code) == (404, "unknown_patient")


async def test_owner_and_partner_at_once_share_one_run_and_both_are_answered(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    partner, token = await partner_of(site)
    await follow(site, patient, partner)
    asked = b'{"dateRange":{"startDate":"2026-03-01","endDate":"2026-03-31"}}'
    first = asyncio.create_task(sync(site, patient, site.practice.operator))
    lease = await worker.lease()
    second = await asked_for(site, site.practice, sync(site, patient, token, asked))
    await worker.end(lease, completed(FEW))
    answers = [await first, await second]
    assert [answer.status for answer in answers] == [200, 200]
    assert {answer.json["syncLogId"] for answer in answers} == {str(lease.run.id)}
    assert answers[0].json["warnings"] == []
    assert ["of other days" in text for text in answers[1].json["warnings"]] == [True]


async def test_a_partner_follows_the_progress_of_a_refresh_that_another_asked_for(
    hasty: Site, worker: PlayedWorker
) -> None:
    patient = await hasty.client(hasty.practice, "12")
    partner, token = await partner_of(hasty)
    await follow(hasty, patient, partner)
    await sync(hasty, patient, hasty.practice.operator)
    answer = await sync(hasty, patient, token)
    assert answer.status == 202
    assert (await hasty.get(answer.json["progressUrl"], token)).status == 200
    assert (await hasty.get(answer.json["progressUrl"], hasty.other.viewer)).status == 404
    cancel = answer.json["progressUrl"].replace("progress", "cancel")
    assert (await hasty.post(cancel, token)).status == 403


async def test_whom_no_vendor_knows_yet_is_looked_for_on_the_owners_connections(
    site: Site, worker: PlayedWorker
) -> None:
    patient = await local_patient(site)
    async with worker.working(lambda _: completed(FEW)) as done:
        assert (await sync(site, patient, site.practice.operator)).status == 200
    assert [run.connection_id for run in done] == [site.practice.connection_id]


async def test_a_patient_whose_connection_has_ended_cannot_be_refreshed(site: Site) -> None:
    patient = await site.client(site.practice, "12")
    await disable(site, site.practice)
    answer = await sync(site, patient, site.practice.operator)
    assert (answer.status, answer.code) == (404, "no_connection")
    assert "eventsync connections" in answer.json["error"]


async def test_the_reading_is_noted_with_the_patient(site: Site, worker: PlayedWorker) -> None:
    patient = await site.client(site.practice, "12")
    made = await site.token(Role.OPERATOR, site.practice.organization_id)
    async with worker.working(lambda _: completed(FEW)):
        assert (await sync(site, patient, made.token)).status == 200
    assert await site.accesses() == [(f"token:{made.id}", "sync_patient", f"patient:{patient}")]
