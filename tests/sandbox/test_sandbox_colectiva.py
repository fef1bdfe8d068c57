from pathlib import Path
from typing import Any

import pytest

from eventsync.sandbox import OptionsError, QuotaLimits, StateError, serve
from sandbox.colectiva_app import ROUTE, body_of, marketplace, registering


async def test_a_new_organization_is_created_and_a_known_one_changed_under_the_same_id() -> None:
    async with registering() as app:
        first = await app.post(body_of(1))
        assert (first.status, first.json["success"], first.json["created"]) == (201, True, True)
        changed = body_of(1, name="Renamed Practice 1", billing={"plan": "pro", "status": "inactive"})
        second = await app.post(changed)
        assert (second.status, second.json["created"]) == (200, False)
        assert first.json["ecosystem_org_id"] == second.json["ecosystem_org_id"]
        assert app.registration(1).as_body() == changed
        (only,) = app.vendor.organizations.values()
        assert only.writes == 2


async def test_an_organization_s_id_is_its_own_and_the_same_in_every_run() -> None:
    async def ids() -> list[str]:
        async with registering() as app:
            return [(await app.post(body_of(number))).json["ecosystem_org_id"] for number in (1, 2)]

    first = await ids()
    assert len(set(first)) == 2
    assert await ids() == first


async def test_the_list_shows_organizations_as_colectiva_does() -> None:
    async with registering() as app:
        assert await app.organizations() == {"success": True, "orgs": [], "count": 0, "total": 0}
        remote_id = (await app.post(body_of(1))).json["ecosystem_org_id"]
        listed = await app.organizations()
        assert (listed["count"], listed["total"]) == (1, 1)
        (org,) = listed["orgs"]
        assert org == {
            "id": remote_id,
            "name": "Test Practice 1",
            "rfc": "XAXX010101001",
            "type": "business",
            "linkedApps": {
                "plenura": {"org_id": body_of(1)["app_org_id"], "name": "Test Practice 1", "syncEnabled": True}
            },
            "billing": {"plan": "free", "status": "active"},
            "memberCount": 1,
            "createdAt": org["createdAt"],
        }
        assert org["createdAt"].startswith("2026-09-21T")


async def test_a_therapist_s_id_is_taken_and_what_may_be_left_out_has_defaults() -> None:
    async with registering() as app:
        app_org_id = f"plenura_therapist_{7:032x}"
        body = {"name": "Test Therapist 7", "app_org_id": app_org_id, "owner_email": "t7@example.test", "rfc": None}
        assert (await app.post(body | {"some_day": 1})).status == 201
        told = app.vendor.organizations[app_org_id].registration
        assert (told.type, told.plan, told.billing_status, told.rfc) == ("business", "free", "active", None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "must be JSON"),
        (b"", "must be JSON"),
        ([], "JSON object"),
        ({}, "required: name, app_org_id, owner_email"),
        (body_of(owner_email=None), "required: owner_email"),
        (body_of(name=""), "required: name"),
        (body_of(name=3), "name must be a string"),
        (body_of(rfc=3), "rfc must be a string"),
        (body_of(type=[]), "type must be a string"),
        (body_of(billing="free"), "billing must be an object"),
        (body_of(billing={"plan": 1}), "billing.plan must be a string"),
        (body_of(billing={"status": "cancelled"}), "billing.status must be one of active, inactive"),
        (body_of(app_org_id="00000000-0000-0000-0000-000000000001"), "plenura_<32 hex digits>"),
        (body_of(app_org_id=f"plenura_{1:031x}"), "app_org_id must be"),
        (body_of(app_org_id=f"plenura_{'G' * 32}"), "app_org_id must be"),
        (body_of(app_org_id=f"plenura_practice_{1:032x}"), "app_org_id must be"),
    ],
)
async def test_a_body_that_cannot_be_is_refused_in_words_that_quote_nothing(body: Any, words: str) -> None:
    async with registering() as app:
        answer = await app.post(body, "some-key")
        assert answer.status == 400
        assert answer.json["success"] is False
        assert words in answer.json["error"]
        assert not app.vendor.organizations
        assert (await app.post(body_of(), "some-key")).status == 201  # a refused key is still free


@pytest.mark.parametrize("token", ["Bearer wrong", "sandbox-api-key", "Basic sandbox-api-key"])
async def test_a_wrong_key_or_one_without_its_bearer_gets_401(token: str) -> None:
    async with registering() as app:
        answer = await app.post(body_of(), token=token)
        assert (answer.status, answer.json) == (401, {"success": False, "error": "Unauthorized"})
        assert not app.vendor.organizations


async def test_a_rotated_key_gets_401_and_the_new_one_is_taken() -> None:
    async with registering() as app:
        app.sandbox.set_api_key("another-key")
        assert (await app.post(body_of())).status == 401
        assert (await app.post(body_of(), token="Bearer another-key")).status == 201


async def test_a_key_without_the_permission_reads_but_does_not_write_until_it_is_given_back() -> None:
    async with registering() as app:
        await app.control("/actions", {"action": "revoke_permission"})
        answer = await app.post(body_of(), "key-1")
        assert answer.status == 403
        assert "ecosystem:write" in answer.json["error"]
        assert (await app.organizations())["count"] == 0
        await app.control("/actions", {"action": "grant_permission"})
        assert (await app.post(body_of(), "key-1")).status == 201


async def test_the_same_key_is_answered_as_before_and_writes_once() -> None:
    async with registering() as app:
        first = await app.post(body_of(1), "key-1")
        assert (await app.post(body_of(1, name="Newer"), "key-2")).status == 200
        reordered = dict(reversed(body_of(1).items()))
        again = await app.post(reordered, "key-1")
        assert (again.status, again.json) == (first.status, first.json)
        assert app.registration(1).name == "Newer"


async def test_the_same_key_with_another_body_gets_422() -> None:
    async with registering() as app:
        await app.post(body_of(1), "key-1")
        answer = await app.post(body_of(1, name="Newer"), "key-1")
        assert answer.status == 422
        assert "Idempotency-Key" in answer.json["error"]
        assert app.registration(1).name == "Test Practice 1"


async def test_known_organizations_can_be_refused_with_409_that_names_them() -> None:
    async with registering() as app:
        app.sandbox.act("refuse_known")
        first = await app.post(body_of(1), "key-1")
        answer = await app.post(body_of(1, name="Newer"), "key-2")
        assert (first.status, answer.status) == (201, 409)
        assert answer.json["ecosystem_org_id"] == first.json["ecosystem_org_id"]
        assert app.registration(1).name == "Test Practice 1"
        app.sandbox.act("take_known")
        assert (await app.post(body_of(1, name="Newer"), "key-2")).status == 200


async def test_there_is_no_quota_unless_one_is_set() -> None:
    async with registering() as app:
        assert {(await app.post(body_of(number))).status for number in range(15)} == {201}
        await app.control("/quota", {"per_minute": 1, "retry_after": True})
        assert (await app.post(body_of(20))).status == 201
        answer = await app.post(body_of(21))
        assert answer.status == 429
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        app.sandbox.set_quota(QuotaLimits(per_minute=0, per_day=None, retry_after=False))
        assert "Retry-After" not in (await app.post(body_of(21))).headers


@pytest.mark.parametrize("path", ["/api/ecosystem-orgs", "/organizations"])
async def test_a_path_that_is_doubled_or_unknown_gets_a_page_for_people(path: str) -> None:
    async with registering() as app:
        headers = {"Authorization": f"Bearer {app.running.api_key}"}
        async with app.session.post(app.running.api_url + path, json=body_of(), headers=headers) as answer:
            assert answer.status == 404
            assert answer.content_type == "text/html"


async def test_the_truth_tells_all_that_was_said_of_an_organization() -> None:
    async with registering() as app:
        remote_id = (await app.post(body_of(1))).json["ecosystem_org_id"]
        (fact,) = await app.lines("/truth?kind=organization")
        assert fact["data"]["id"] == remote_id
        assert fact["data"]["owner_email"] == "owner1@example.test"
        assert fact["data"]["app_org_id"] == body_of(1)["app_org_id"]
        assert (await app.control("/truth?kind=appointment")).status == 400
        assert (await app.control("/stats")).json["records"]["organizations"] == 1


async def test_a_restarted_marketplace_remembers_organizations_keys_permission_and_payments(tmp_path: Path) -> None:
    options = marketplace(state_path=tmp_path / "colectiva.json")
    async with registering(options) as app:
        first = await app.post(body_of(1), "key-1")
        app.sandbox.act("escrow_created")
        app.sandbox.act("revoke_permission")
        truth = (await app.control("/truth")).text
    async with registering(options) as app:
        assert (await app.control("/truth")).text == truth
        assert (await app.post(body_of(2))).status == 403
        app.sandbox.act("grant_permission")
        assert (await app.post(body_of(1), "key-1")).json == first.json
        assert (await app.post(body_of(1, name="Newer"), "key-1")).status == 422
        assert app.sandbox.act("escrow_created").record_id not in truth
        app.sandbox.act("escrow_funded")


async def test_what_is_not_its_state_or_option_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "colectiva.json"
    path.write_bytes(b'{"format":1,"vendor":"colectiva","now_ms":1,"data":{"books":{}}}')
    with pytest.raises(StateError, match="damaged"):
        async with serve(marketplace(state_path=path)):
            pass
    with pytest.raises(OptionsError, match="practice_id"):
        async with serve(marketplace(practice_id="0" * 24)):
            pass
    with pytest.raises(OptionsError, match="known: payment"):
        async with serve(marketplace(webhook_targets={"appointment": "http://127.0.0.1:1/"})):
            pass


async def test_the_address_that_a_connection_is_given_ends_in_api() -> None:
    async with registering() as app:
        assert app.running.api_url + ROUTE == app.running.base_url + "/api/ecosystem-orgs"
        assert app.running.practice_id is None
