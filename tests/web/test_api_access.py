"""Who may ask the management API what: nobody without a token, everyone within their own organization only."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from eventsync.postgres.access import ApiTokens, Role
from eventsync.postgres.tenants import Organizations
from eventsync.web.api import CALLER
from eventsync.wiring.api import make_api
from eventsync.wiring.process import Process
from web.api_site import NOW, Site

LISTINGS = ("/api/v1/events", "/api/v1/appointments", "/api/v1/patients", "/api/v1/budget", "/api/v1/freshness")


def guarded_routes(process: Process) -> list[tuple[str, str]]:
    """List what the process serves under /api/ but for webhooks, as method and path with ids filled in."""
    server = process.server
    assert server is not None
    routes = [
        (route.method, route.resource.canonical.replace("{id}", str(uuid4())))
        for route in server._app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/api/")
    ]
    return [(method, path) for method, path in routes if not path.startswith("/api/webhooks/")]


async def test_every_route_refuses_a_call_without_a_living_token(site: Site, api_process: Process) -> None:
    revoked = await site.token(Role.OPERATOR, site.practice.organization_id)
    assert (await site.get("/api/v1/events", revoked.token)).status == 200
    assert await ApiTokens(site.pool).revoke(revoked.id, None, NOW)
    routes = guarded_routes(api_process)
    assert len(routes) >= 8
    for method, path in routes:
        for token in (None, "", "nobodys", revoked.token):
            answer = await site.call(method, path, token)
            assert answer.status == 401, (method, path)
            assert answer.code in {"missing_token", "invalid_token"}
            assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Basic {token}")],
        [("Authorization", "{token}")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer {token}"), ("Authorization", "Bearer {token}")],
        [("Cookie", "token={token}")],
        [("Authorization", "Bearer {token}\u00ff")],
    ],
)
async def test_a_token_counts_in_the_bearer_header_only(site: Site, headers: list[tuple[str, str]]) -> None:
    sent = [(name, value.format(token=site.admin)) for name, value in headers]
    assert (await site.call("GET", "/api/v1/events", None, headers=sent)).status == 401
    assert (await site.call("GET", "/api/v1/events", None, query={"token": site.admin})).status == 401


async def test_the_scheme_is_read_in_any_case(site: Site) -> None:
    headers = [("Authorization", f"bearer {site.admin}")]
    assert (await site.call("GET", "/api/v1/events", None, headers=headers)).status == 200


async def test_a_route_added_by_others_is_guarded_as_well(site: Site, api_process: Process) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=request[CALLER].actor)

    app = web.Application()
    app.router.add_get("/api/cron/other", hello)
    make_api(
        api_process.database, site.keyring, api_process.connections, api_process.queue, api_process.clock
    ).add_routes(app)
    async with TestClient(TestServer(app)) as client:
        for path in ("/api/cron/other", "/%61pi/cron/other", "/api/cron/../cron/other", "/api/nothing"):
            assert (await client.get(URL(path, encoded=True))).status == 401, path
        answer = await client.get("/api/cron/other", headers={"Authorization": f"Bearer {site.admin}"})
        assert (answer.status, (await answer.text())[:6]) == (200, "token:")


async def test_webhooks_and_probes_are_asked_for_no_bearer_token(site: Site) -> None:
    assert (await site.get("/healthz", None)).status == 200
    answer = await site.call("POST", "/api/webhooks/intakeq/not-a-token", None, data=b"{}")
    assert (answer.status, answer.code) == (401, "unknown_token")


async def test_a_viewer_reads_and_changes_nothing(site: Site) -> None:
    event_id = await site.finished_event(site.practice)
    for path in LISTINGS:
        assert (await site.get(path, site.practice.viewer)).status == 200
    answer = await site.post(f"/api/v1/events/{event_id}/replay", site.practice.viewer, dry_run="true")
    assert (answer.status, answer.code) == (403, "role_not_allowed")
    assert len((await site.get("/api/v1/events", site.admin)).ids) == 1


async def test_a_bound_token_names_its_own_organization_by_either_id(site: Site) -> None:
    event_id = await site.event(site.practice)
    for name in (str(site.practice.organization_id), str(site.practice.organization_id).upper(), "practice-1"):
        assert (await site.get("/api/v1/events", site.practice.viewer, org=name)).ids == [str(event_id)]


async def test_a_bound_token_learns_nothing_of_other_organizations(site: Site) -> None:
    number = next(each.number for each in await Organizations(site.pool).all() if each.external_id == "practice-2")
    for name in (str(site.other.organization_id), "practice-2", str(number), str(uuid4()), "nobody", "", "\x85"):
        for path in LISTINGS:
            answer = await site.get(path, site.practice.operator, org=name)
            assert (answer.status, answer.code) == (403, "other_organization"), name


async def test_an_external_id_that_looks_like_anothers_number_stays_its_owners(site: Site) -> None:
    number = next(each.number for each in await Organizations(site.pool).all() if each.external_id == "practice-1")
    namesake = await Organizations(site.pool).add("Test Practice", str(number), NOW)
    token = (await site.token(Role.VIEWER, namesake.id)).token
    await site.event(site.practice)
    assert (await site.get("/api/v1/events", token, org=str(number))).ids == []
    assert (await site.get("/api/v1/events", site.practice.viewer, org=str(number))).status == 403


async def test_an_admin_sees_every_organization_or_the_one_named(site: Site) -> None:
    first, second = await site.event(site.practice, 1), await site.event(site.other, 2)
    assert (await site.get("/api/v1/events", site.admin)).ids == [str(second), str(first)]
    assert (await site.get("/api/v1/events", site.admin, org="practice-1")).ids == [str(first)]
    assert (await site.get("/api/v1/events", site.admin, org=str(site.other.organization_id))).ids == [str(second)]


@pytest.mark.parametrize("name", ["nobody", "00000000-0000-4000-8000-000000000000", "", "99999999999999999999"])
async def test_an_organization_that_is_not_there_is_an_error_for_an_admin(site: Site, name: str) -> None:
    answer = await site.get("/api/v1/events", site.admin, org=name)
    assert (answer.status, answer.code) == (404, "unknown_organization")


async def test_two_organizations_at_once_are_refused(site: Site) -> None:
    headers = [("X-Organization-ID", "practice-1"), ("X-Organization-ID", "practice-2")]
    answer = await site.call("GET", "/api/v1/events", site.admin, headers=headers)
    assert (answer.status, answer.code) == (400, "several_organizations")


async def test_a_revoked_token_ends_at_once_also_amid_other_calls(site: Site) -> None:
    made = await site.token(Role.VIEWER, site.practice.organization_id)
    assert (await site.get("/api/v1/patients", made.token)).status == 200
    await ApiTokens(site.pool).revoke(made.id, None, NOW)
    answers = await asyncio.gather(*(site.get("/api/v1/patients", made.token) for _ in range(5)))
    assert [answer.status for answer in answers] == [401] * 5


async def test_answers_are_kept_out_of_caches(site: Site) -> None:
    for token in (site.admin, None):
        assert (await site.get("/api/v1/patients", token)).headers["Cache-Control"] == "no-store"
