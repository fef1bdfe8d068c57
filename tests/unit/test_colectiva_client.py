"""What becomes of an item by each answer of Colectiva's, from a server of the test's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from eventsync.domain import deliveries
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.deliveries import Accepted, Deferred, Failed, Halted, Refused
from eventsync.domain.errors import EventsyncError, Misconfigured, Transient
from eventsync.vendorkit.budget import BudgetSpent, Purpose, ReservationId
from eventsync.vendorkit.http import PostBounds, VendorHttp
from eventsync.vendors.colectiva import VENDOR
from eventsync.vendors.colectiva.client import ColectivaClient, endpoint
from unit.test_colectiva_mapping import ORG_ID, PRACTICE, item
from unit.test_vendorkit_http import HTML, NOW, answering, in_turn
from unit.vendor_server import Answer, NotingBudget, vendor_server

KEY = "invented-colectiva-key"
ITEM = item(PRACTICE)


def client_at(
    base_url: str, http: aiohttp.ClientSession, budget: NotingBudget | None = None, *, key: str = KEY, **bounds: Any
) -> ColectivaClient:
    connection = Connection(ConnectionId(UUID(int=1)), 4, OrganizationId(UUID(int=2)), "colectiva", base_url, key)
    access = VendorHttp(http, budget or NotingBudget(), now=lambda: NOW, post_bounds=PostBounds(**bounds))
    client = VENDOR.registry(connection, access)
    assert isinstance(client, ColectivaClient)
    return client


@asynccontextmanager
async def colectiva(
    answer: Answer, budget: NotingBudget | None = None, **bounds: Any
) -> AsyncIterator[ColectivaClient]:
    async with vendor_server(answer) as url, aiohttp.ClientSession() as http:
        yield client_at(url, http, budget, **bounds)


async def answer_to(answer: Answer, budget: NotingBudget | None = None, **bounds: Any) -> deliveries.Answer:
    async with colectiva(answer, budget, **bounds) as client:
        return await client.deliver(ITEM)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://colectiva.example.test",
        "https://colectiva.example.test/",
        "https://colectiva.example.test/api",
        "https://colectiva.example.test//api//",
        "https://colectiva.example.test/api/ecosystem-orgs",
        "https://colectiva.example.test/api/ecosystem-orgs/",
        " https://colectiva.example.test/api/ ",
    ],
)
def test_the_base_url_may_end_in_api_or_not(base_url: str) -> None:
    assert endpoint(base_url) == "https://colectiva.example.test/api/ecosystem-orgs"


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://gateway.example.test/colectiva", "https://gateway.example.test/colectiva/api/ecosystem-orgs"),
        ("https://gateway.example.test/api/colectiva", "https://gateway.example.test/api/colectiva/api/ecosystem-orgs"),
        ("https://gateway.example.test/myapi", "https://gateway.example.test/myapi/api/ecosystem-orgs"),
    ],
)
def test_a_path_of_a_gateway_stays(base_url: str, address: str) -> None:
    assert endpoint(base_url) == address


async def test_an_item_is_posted_with_its_key_and_its_body() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert (request.method, request.path) == ("POST", "/api/ecosystem-orgs")
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.headers["Idempotency-Key"] == str(ITEM.idempotency_key)
        body = await request.json()
        assert body["app_org_id"] == ORG_ID
        assert body["name"] == "Test Practice 12"
        return web.json_response({"ecosystem_org_id": "remote-1"}, status=201)

    budget = NotingBudget()
    async with colectiva(answer, budget) as client:
        assert await client.deliver(ITEM) == Accepted("remote-1", 201)
    assert budget.log == ["reserve delivery", "finish 1"]


async def test_what_would_be_sent_can_be_seen_without_sending_it() -> None:
    async with aiohttp.ClientSession() as http:
        assert client_at("https://colectiva.example.test", http).body_of(ITEM)["rfc"] == "TPR010101AA1"


@pytest.mark.parametrize(
    ("text", "remote_org_id"),
    [
        ('{"ecosystem_org_id":"remote-1","more":[1]}', "remote-1"),
        ('{"ecosystem_org_id":17}', "17"),
        ('{"success":true}', None),
        ('{"ecosystem_org_id":null}', None),
        ('{"ecosystem_org_id":["remote-1"]}', None),
        ('{"ecosystem_org_id":"' + "x" * 201 + '"}', None),
        ("[]", None),
        ('"done"', None),
    ],
)
async def test_any_json_of_a_success_is_taken_and_the_id_where_there_is_one(
    text: str, remote_org_id: str | None
) -> None:
    assert await answer_to(answering(200, text)) == Accepted(remote_org_id, 200)


async def test_a_success_that_has_no_content_by_its_status_is_taken() -> None:
    assert await answer_to(answering(204, "")) == Accepted(None, 204)


@pytest.mark.parametrize("text", [HTML, "", "OK", '{"ecosystem_org_id":"remote-1"', '{"ecosystem_org_id":"\xff'])
async def test_a_success_that_is_no_json_is_none(text: str) -> None:
    answer = await answer_to(answering(200, text))
    assert isinstance(answer, Failed)
    assert (answer.http_status, answer.retry_after_s) == (200, None)


async def test_a_success_that_says_it_is_none_is_a_failure_with_its_words() -> None:
    answer = await answer_to(answering(200, '{"success":false,"error":"Database busy"}'))
    assert answer == Failed("Colectiva did not take it (HTTP 200): Database busy", 200)


async def test_a_success_that_was_cut_or_is_endless_is_a_failure() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"ecosystem_org_id":"remote-1"}')
        assert request.transport is not None
        request.transport.close()
        return response

    assert isinstance(await answer_to(cut), Failed)
    endless = answering(200, '{"ecosystem_org_id":"remote-1","orgs":"' + "x" * 5_000 + '"}')
    assert isinstance(await answer_to(endless, max_answer_bytes=1_000), Failed)


@pytest.mark.parametrize(
    ("text", "remote_org_id"),
    [('{"error":"exists","ecosystem_org_id":"remote-1"}', "remote-1"), ("exists", None), (HTML, None), ("", None)],
)
async def test_a_conflict_says_that_it_is_there_already(text: str, remote_org_id: str | None) -> None:
    assert await answer_to(answering(409, text)) == Accepted(remote_org_id, 409)


@pytest.mark.parametrize("status", [400, 402, 406, 410, 413, 415, 422, 451])
async def test_other_refusals_are_for_good_and_told_in_the_servers_words(status: int) -> None:
    answer = await answer_to(answering(status, '{"error":"app_org_id must start with plenura_"}'))
    words = f"Colectiva refused it (HTTP {status}): app_org_id must start with plenura_"
    assert answer == Refused(words, status)


@pytest.mark.parametrize("status", [400, 402, 406, 410, 413, 415, 422, 451])
@pytest.mark.parametrize(("headers", "wait_s"), [({}, None), ({"Retry-After": "30"}, 30.0)])
async def test_a_refusal_that_is_a_page_is_none_of_colectivas_and_is_tried_again(
    status: int, headers: dict[str, str], wait_s: float | None
) -> None:
    page = "\n <!DOCTYPE html><html><head><title>Request Entity Too Large</title></head><body></body></html>"
    words = f"A page came in place of Colectiva's answer (HTTP {status}): Request Entity Too Large"
    assert await answer_to(answering(status, page, headers)) == Failed(words, status, wait_s)


@pytest.mark.parametrize("text", ["", "Bad Request", "{"])
async def test_a_refusal_in_plain_text_or_without_words_is_for_good(text: str) -> None:
    assert isinstance(await answer_to(answering(400, text)), Refused)


@pytest.mark.parametrize(
    ("status", "named"),
    [
        (401, "--api-key"),
        (403, "ecosystem:write"),
        *((status, "--base-url") for status in (404, 405, 301, 302, 303, 307, 308)),
    ],
)
@pytest.mark.parametrize("text", ['{"error":"client12@example.test"}', HTML, ""])
async def test_a_wrong_account_halts_the_queue_and_says_what_to_mend_in_our_own_words(
    status: int, named: str, text: str
) -> None:
    answer = await answer_to(answering(status, text, {"Location": "https://elsewhere.example.test/"}))
    assert isinstance(answer, Halted)
    assert answer.http_status == status
    assert named in answer.message
    assert "eventsync connections update 4" in answer.message
    assert "client12" not in answer.message


async def test_the_limit_of_calls_defers_the_item_and_closes_the_budget() -> None:
    budget = NotingBudget()
    answer = await answer_to(answering(429, HTML, {"Retry-After": "17"}), budget)
    assert answer == Deferred("Colectiva's call limit is reached (HTTP 429).", 429, 17.0)
    assert budget.refused_s == [17.0]
    silent = await answer_to(answering(429))
    assert isinstance(silent, Deferred)
    assert silent.retry_after_s == 60.0


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 599])
@pytest.mark.parametrize(("headers", "wait_s"), [({}, None), ({"Retry-After": "30"}, 30.0)])
async def test_trouble_at_colectiva_is_a_failure_that_honours_retry_after(
    status: int, headers: dict[str, str], wait_s: float | None
) -> None:
    answer = await answer_to(answering(status, '{"message":"try later"}', headers))
    assert answer == Failed(f"Colectiva failed (HTTP {status}): try later", status, wait_s)


async def test_an_answer_that_does_not_come_in_time_is_a_failure() -> None:
    never = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await never.wait()
        return web.json_response({})

    async with colectiva(answer, timeout_s=0.1) as client:
        failed = await client.deliver(ITEM)
        never.set()
    assert failed == Failed("The vendor did not answer within 0.1 s.")


async def test_a_connection_that_breaks_after_the_request_is_a_failure_and_nothing_is_sent_twice() -> None:
    keys: list[str] = []

    async def drop(request: web.Request) -> web.Response:
        keys.append(request.headers["Idempotency-Key"])
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with colectiva(in_turn(drop, answering(200))) as client:
        first, second = await client.deliver(ITEM), await client.deliver(ITEM)
    assert isinstance(first, Failed)
    assert first.http_status is first.retry_after_s is None
    assert second == Accepted(None, 200)
    assert keys == [str(ITEM.idempotency_key)]


async def test_a_server_that_cannot_be_reached_defers_the_item() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with aiohttp.ClientSession() as http:
            answer = await client_at(f"http://127.0.0.1:{closed.getsockname()[1]}", http).deliver(ITEM)
    assert isinstance(answer, Deferred)
    assert answer.http_status is answer.retry_after_s is None


async def test_a_budget_that_is_spent_defers_the_item_for_as_long_as_it_says() -> None:
    class Spent(NotingBudget):
        async def reserve(self, purpose: Purpose) -> ReservationId:
            raise BudgetSpent(f"no place for {purpose.value}", retry_after_s=12.5)

    assert await answer_to(answering(500), Spent()) == Deferred("no place for delivery", None, 12.5)


async def test_a_ledger_that_is_away_is_told_as_such_and_nothing_is_sent() -> None:
    with pytest.raises(Transient, match="spent"):
        await answer_to(answering(200), NotingBudget(allowed=0))


async def test_an_address_that_cannot_be_halts_the_queue() -> None:
    async with aiohttp.ClientSession() as http:
        answer = await client_at("http://a..b", http).deliver(ITEM)
    assert isinstance(answer, Halted)


@pytest.mark.parametrize("key", ["", "  ", "key\nwith a line", "kéy"])
async def test_a_key_that_no_header_can_carry_is_a_matter_of_configuration(key: str) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(Misconfigured, match="api_key") as caught:
            client_at("https://colectiva.example.test", http, key=key)
    assert "line" not in str(caught.value)


async def check(answer: Answer) -> EventsyncError | None:
    async with colectiva(answer) as client:
        try:
            await client.check_credentials()
        except EventsyncError as error:
            return error
    return None


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refusal_of_an_empty_registration_proves_the_credentials(status: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert await request.json() == {}
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return web.json_response({"error": "name is required"}, status=status)

    budget = NotingBudget()
    async with colectiva(answer, budget) as client:
        await client.check_credentials()
    assert budget.log == ["reserve check", "finish 1"]


@pytest.mark.parametrize(
    ("status", "named"),
    [(401, "--api-key"), (403, "ecosystem:write"), *((status, "--base-url") for status in (404, 405))],
)
async def test_credentials_or_an_address_that_are_wrong_name_what_to_do(status: int, named: str) -> None:
    error = await check(answering(status, HTML))
    assert isinstance(error, Misconfigured)
    assert named in str(error)


@pytest.mark.parametrize("status", [200, 201, 400, 409, 413, 500, 503])
async def test_any_other_answer_proves_nothing(status: int) -> None:
    error = await check(answering(status, HTML if status == 400 else "{}"))
    assert isinstance(error, Transient)


async def test_a_check_that_meets_the_limit_says_when_to_come_back() -> None:
    error = await check(answering(429, headers={"Retry-After": "17"}))
    assert isinstance(error, Transient)
    assert error.retry_after_s == 17.0


async def test_a_careless_server_that_repeats_the_key_does_not_bring_it_into_the_queue() -> None:
    answer = await answer_to(answering(400, f'{{"error":"Bearer {KEY} sent a wrong body"}}'))
    assert answer == Refused("Colectiva refused it (HTTP 400): Bearer *** sent a wrong body", 400)
