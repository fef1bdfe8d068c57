"""What the management API says to wrong requests and in bad times: the one error object, and nothing personal."""

from __future__ import annotations

from io import BytesIO

import pytest
from structlog.testing import capture_logs

from eventsync.wiring.process import Process
from web.api_site import NOW, Site

ID = "0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12"
EVENTS, APPOINTMENTS, PATIENTS = "/api/v1/events", "/api/v1/appointments", "/api/v1/patients"
BUDGET = "/api/v1/budget"

WRONG = [
    (EVENTS, {"limit": "0"}, "limit"),
    (EVENTS, {"limit": "201"}, "limit"),
    (EVENTS, {"limit": "-1"}, "limit"),
    (EVENTS, {"limit": "ten"}, "limit"),
    (EVENTS, {"limit": "٣"}, "limit"),
    (EVENTS, {"limit": "99999999999999999999"}, "limit"),
    (EVENTS, {"since": "yesterday"}, "since"),
    (EVENTS, {"since": "2026-03-31T09:30:00"}, "since"),
    (EVENTS, {"since": "2026-03-31T09:30:00 02:00"}, "since"),
    (EVENTS, {"since": "2026-02-30T09:30:00Z"}, "since"),
    (EVENTS, {"until": "0001-01-01T00:00:00+23:59"}, "until"),
    (EVENTS, {"state": "done"}, "state"),
    (EVENTS, {"entity_kind": "Test Client 12"}, "entity_kind"),
    (EVENTS, {"entity_id": "a\0b"}, "entity_id"),
    (EVENTS, {"entity_id": ""}, "entity_id"),
    (EVENTS, {"event_type": "x" * 201}, "event_type"),
    (EVENTS, {"connection_id": "1"}, "connection_id"),
    (EVENTS, {"cursor": ""}, "cursor"),
    (EVENTS, {"cursor": "not a cursor"}, "cursor"),
    (EVENTS, {"cursor": "AAAA" * 20}, "cursor"),
    (EVENTS, {"cursor": "ä"}, "cursor"),
    (EVENTS, {"Test Client 12": "x"}, "known"),
    (EVENTS + "/12", {}, "id"),
    (EVENTS + f"/urn:uuid:{ID}", {}, "id"),
    (EVENTS + "/" + "9" * 300, {}, "id"),
    (EVENTS + f"/{ID}", {"body": "TRUE"}, "body"),
    (APPOINTMENTS, {"patient_id": "Test Client 12"}, "patient_id"),
    (APPOINTMENTS, {"with_deleted": "1"}, "with_deleted"),
    (PATIENTS, {"status": "linked"}, "status"),
    (PATIENTS, {"email": "client12@example.test"}, "known"),
    (PATIENTS + "/Test%20Client%2012/timeline", {}, "id"),
]


@pytest.mark.parametrize(("path", "query", "about"), WRONG)
async def test_a_wrong_request_is_told_what_is_wrong_without_quoting_it(
    site: Site, path: str, query: dict[str, str], about: str
) -> None:
    answer = await site.get(path, site.admin, **query)
    assert answer.status == 400, answer.json
    assert answer.code in {"invalid_parameter", "invalid_cursor", "unknown_parameter"}
    assert about in answer.json["error"]
    assert "Test Client" not in str(answer.json)
    assert "example.test" not in str(answer.json)


async def test_a_parameter_given_twice_is_refused(site: Site) -> None:
    answer = await site.call("GET", EVENTS, site.admin, query=[("limit", "1"), ("limit", "2")])
    assert (answer.status, answer.code) == (400, "repeated_parameter")


async def test_a_cursor_opens_only_for_its_listing_and_organization(site: Site) -> None:
    for number in range(2):
        await site.event(site.practice, number)
        await site.event(site.other, number)
    cursor = (await site.get(EVENTS, site.practice.viewer, limit="1")).json["next_cursor"]
    assert (await site.get(EVENTS, site.practice.viewer, cursor=cursor)).status == 200
    assert (await site.get(EVENTS, site.other.viewer, cursor=cursor)).code == "invalid_cursor"
    assert (await site.get(APPOINTMENTS, site.practice.viewer, cursor=cursor)).code == "invalid_cursor"
    changed = cursor[:30] + ("A" if cursor[30] != "A" else "B") + cursor[31:]
    assert (await site.get(EVENTS, site.practice.viewer, cursor=changed)).code == "invalid_cursor"


async def test_the_extremes_of_what_is_allowed_are_served(site: Site) -> None:
    for query in (
        {"limit": "1"},
        {"limit": "200"},
        {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z"},
        {"since": NOW.isoformat(), "until": NOW.isoformat()},
        {"entity_id": "'; DROP TABLE events; --"},
    ):
        for path in (EVENTS, APPOINTMENTS):
            answer = await site.get(path, site.admin, **({"limit": "1"} if "entity_id" in query else query))
            assert answer.status == 200, (path, query, answer.json)
    assert (await site.get(EVENTS, site.admin, entity_id="'; DROP TABLE events; --")).ids == []
    for event_id in ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        assert (await site.get(f"{EVENTS}/{event_id}", site.admin)).status == 404
        assert (await site.post(f"{EVENTS}/{event_id}/replay", site.admin)).status == 404


async def test_a_wrong_path_or_method_is_an_error_object_too(site: Site) -> None:
    missing = await site.get("/api/v1/nothing", site.admin)
    assert (missing.status, missing.code) == (404, "not_found")
    wrong = await site.call("DELETE", EVENTS, site.admin)
    assert (wrong.status, wrong.code, wrong.headers["Allow"]) == (405, "method_not_allowed", "GET")


async def test_a_large_body_is_refused(site: Site) -> None:
    answer = await site.call("POST", f"{EVENTS}/{ID}/replay", site.admin, data=BytesIO(b" " * (2 * 1024 * 1024)))
    assert (answer.status, answer.code) == (413, "request_entity_too_large")


async def test_while_postgres_is_away_the_api_asks_to_come_again(site: Site, api_process: Process) -> None:
    await api_process.database.close()
    for token in (site.admin, "nobodys"):
        answer = await site.get(EVENTS, token)
        assert (answer.status, answer.code) == (503, "temporarily_unavailable")
        assert int(answer.headers["Retry-After"]) == answer.json["details"]["retry_after"] >= 1


async def test_a_fault_of_ours_shows_neither_trace_nor_text(site: Site) -> None:
    async with site.pool.session() as session:
        await session.execute("""UPDATE connections SET settings = '["Secretname"]'""")
    with capture_logs() as logs:
        answer = await site.get(BUDGET, site.admin)
    assert (answer.status, answer.code) == (500, "internal_error")
    assert any(line["event"] == "request_failed" and line["where"] for line in logs)
    for text in (str(answer.json), str(logs)):
        assert "Secretname" not in text
        assert "Traceback" not in text


async def test_a_schema_that_does_not_fit_is_told_as_what_to_do(site: Site) -> None:
    await site.client(site.practice, "12", "Secretname")
    async with site.pool.session() as session:
        await session.execute("ALTER TABLE access_log RENAME COLUMN subject TO topic")
    answer = await site.get(PATIENTS, site.admin)
    assert (answer.status, answer.code) == (500, "misconfigured")
    assert "eventsync" in answer.json["error"]
    assert "Secretname" not in str(answer.json)


async def test_a_lost_key_is_told_as_what_to_do_and_not_what_it_was(site: Site) -> None:
    event_id = await site.event(site.practice)
    async with site.pool.session() as session:
        await session.execute("UPDATE events SET body_sealed = 'x'")
    answer = await site.get(f"{EVENTS}/{event_id}", site.admin, body="true")
    assert (answer.status, answer.code) == (500, "misconfigured")
    assert "eventsync check" in answer.json["error"]


async def test_no_log_line_names_a_patient_or_a_token(site: Site) -> None:
    patient = await site.client(site.practice, "12", "Secretname")
    event_id = await site.finished_event(site.practice, entity="patient:12")
    with capture_logs() as logs:
        for path in (PATIENTS, APPOINTMENTS, f"{PATIENTS}/{patient}/timeline", f"{PATIENTS}/Secretname/timeline"):
            await site.get(path, site.practice.operator)
            await site.get(path, "Secrettoken")
        await site.post(f"{EVENTS}/{event_id}/replay", site.practice.operator)
    told = str(logs)
    assert "event_replayed" in told
    for secret in ("Secretname", "Secrettoken", site.practice.operator, str(patient), "example.test"):
        assert secret not in told
