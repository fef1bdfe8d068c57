from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from eventsync.domain.errors import EventsyncError, Misconfigured, Rejected, Transient
from eventsync.vendorkit.budget import Purpose, ReservationId
from eventsync.vendorkit.http import NotFound, RateLimited, VendorHttp
from unit.vendor_server import Answer, NotingBudget, vendor_server

KEY = "invented-key"
SECRET_QUERY = {"search": "client12@example.test"}
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HTML = "<!DOCTYPE html><html><body>client12@example.test</body></html>"

Get = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def calling(answer: Answer, budget: NotingBudget, **bounds: Any) -> AsyncIterator[Get]:
    async with vendor_server(answer) as url, aiohttp.ClientSession() as session:
        http = VendorHttp(session, budget, retry_base_s=0.0, now=lambda: NOW, **bounds)
        yield lambda: http.get_json(
            f"{url}/clients", params=SECRET_QUERY, headers={"X-Auth-Key": KEY}, purpose=Purpose.SWEEP
        )


def answering(status: int, text: str = "{}", headers: Mapping[str, str] | None = None) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return answer


def in_turn(*answers: Answer) -> Answer:
    waiting = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await waiting.pop(0)(request)

    return answer


async def failure(answer: Answer, budget: NotingBudget | None = None, **bounds: Any) -> EventsyncError:
    async with calling(answer, budget or NotingBudget(), **bounds) as get:
        with pytest.raises(EventsyncError) as caught:
            await get()
    return caught.value


async def test_an_answer_is_parsed_whatever_its_content_type_says() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.query == SECRET_QUERY
        assert request.headers["X-Auth-Key"] == KEY
        return web.Response(body=b'[{"Name":"a\\u0000b"}]', content_type="text/html")

    async with calling(answer, NotingBudget()) as get:
        assert await get() == [{"Name": "a\ufffdb"}]


async def test_each_call_is_reserved_before_it_is_made_and_finished_after() -> None:
    budget = NotingBudget()

    async def answer(_request: web.Request) -> web.Response:
        budget.log.append("called")
        return web.json_response([])

    async with calling(answer, budget) as get:
        await get()
    assert budget.log == ["reserve sweep", "called", "finish 1"]


async def test_an_answer_that_was_paid_for_is_kept_although_the_ledger_is_away() -> None:
    class AwayAfterTheCall(NotingBudget):
        async def finish(self, reservation: ReservationId) -> None:
            await super().finish(reservation)
            raise Transient("PostgreSQL is away or busy")

    budget = AwayAfterTheCall()
    async with calling(answering(200, "[1]"), budget) as get:
        assert await get() == [1]
    assert budget.log == ["reserve sweep", "finish 1"]


async def test_no_call_is_made_once_the_budget_is_spent() -> None:
    called = 0

    async def answer(_request: web.Request) -> web.Response:
        nonlocal called
        called += 1
        return web.json_response([])

    error = await failure(answer, NotingBudget(allowed=0))
    assert isinstance(error, Transient)
    assert error.retry_after_s == 12.0
    assert called == 0


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        ("17", 17.0),
        ("0", 1.0),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 1.0),
        ("999999999", 86_400.0),
        ("soon", 60.0),
        ("-5", 60.0),
        ("nan", 60.0),
        ("", 60.0),
    ],
)
async def test_a_429_closes_the_budget_for_as_long_as_it_says_and_is_not_retried(
    retry_after: str, wait_s: float
) -> None:
    budget = NotingBudget()
    error = await failure(answering(429, headers={"Retry-After": retry_after}), budget)
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == wait_s
    assert budget.log == ["reserve sweep", "finish 1", "refused"]
    assert budget.refused_s == [wait_s]


async def test_without_retry_after_the_wait_grows_until_a_call_goes_through() -> None:
    budget = NotingBudget()
    refusal, success = answering(429), answering(200, "[]")
    async with calling(in_turn(*[refusal] * 5, success, refusal), budget) as get:
        for _ in range(5):
            with pytest.raises(Transient):
                await get()
        await get()
        with pytest.raises(Transient):
            await get()
    assert budget.refused_s == [60.0, 120.0, 240.0, 300.0, 300.0, 60.0]


async def test_a_server_error_is_tried_again_and_each_try_is_budgeted() -> None:
    budget = NotingBudget()
    async with calling(in_turn(answering(500), answering(503), answering(200, "[1]")), budget) as get:
        assert await get() == [1]
    assert budget.spent == 3


async def test_a_lasting_server_error_ends_as_transient_after_a_few_tries() -> None:
    budget = NotingBudget()
    error = await failure(answering(500, HTML), budget, tries=3)
    assert isinstance(error, Transient)
    assert budget.spent == 3
    assert budget.log.count("finish 3") == 1


async def test_a_server_error_that_says_when_to_come_back_is_not_tried_before() -> None:
    budget = NotingBudget()
    error = await failure(answering(503, headers={"Retry-After": "30"}), budget)
    assert isinstance(error, Transient)
    assert error.retry_after_s == 30.0
    assert budget.spent == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_name_the_setting_to_change(status: int) -> None:
    error = await failure(answering(status))
    assert isinstance(error, Misconfigured)
    assert "api_key" in str(error)


async def test_an_unknown_record_is_told_apart_from_other_refusals() -> None:
    assert isinstance(await failure(answering(404, '{"Message":"Intake not found"}')), NotFound)
    refused = await failure(answering(400, '{"Message":"Client not found"}'))
    assert isinstance(refused, Rejected)
    assert not isinstance(refused, NotFound)
    assert refused.reason == "vendor_refused"


async def test_a_404_with_a_page_does_not_say_that_a_record_is_gone() -> None:
    error = await failure(answering(404, HTML))
    assert isinstance(error, Transient)
    assert "base_url" in str(error)


@pytest.mark.parametrize("text", [HTML, "  \n<html>", "", "Service temporarily unavailable", '{"cut": '])
async def test_a_body_that_is_not_json_is_transient_for_all_its_200(text: str) -> None:
    budget = NotingBudget()
    error = await failure(answering(200, text), budget)
    assert isinstance(error, Transient)
    assert "not JSON" in str(error)
    assert budget.spent == 1


async def test_a_redirect_is_never_followed_with_the_key() -> None:
    paths = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    assert isinstance(await failure(answer), Transient)
    assert paths == ["/clients"]
    assert isinstance(await failure(answering(301, headers={"Location": "/new"})), Misconfigured)


async def test_a_slow_answer_is_given_up_in_time_and_finished_in_the_budget() -> None:
    never = asyncio.Event()
    budget = NotingBudget()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"[")
        await never.wait()
        return response

    error = await failure(answer, budget, timeout_s=0.05, tries=2)
    never.set()
    assert isinstance(error, Transient)
    assert "0.05 s" in str(error)
    assert budget.log == ["reserve sweep", "finish 1", "reserve sweep", "finish 2"]


async def test_a_cancelled_call_is_finished_in_the_budget_and_stays_cancelled() -> None:
    never, asked = asyncio.Event(), asyncio.Event()
    budget = NotingBudget()

    async def answer(_request: web.Request) -> web.Response:
        asked.set()
        await never.wait()
        return web.json_response([])

    async with calling(answer, budget) as get:
        call = asyncio.ensure_future(get())
        await asyncio.wait_for(asked.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        never.set()
    assert budget.log == ["reserve sweep", "finish 1"]


async def test_an_endless_answer_is_cut_off() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"[" * 65_536)
        except ConnectionError:
            return response

    error = await failure(answer, max_response_bytes=200_000)
    assert isinstance(error, Rejected)
    assert error.reason == "response_too_large"


async def test_a_closed_port_is_transient() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    budget = NotingBudget()
    async with aiohttp.ClientSession() as session:
        http = VendorHttp(session, budget, tries=2, retry_base_s=0.0)
        with pytest.raises(Transient):
            await http.get_json(f"http://127.0.0.1:{port}/x", params={}, headers={}, purpose=Purpose.CHECK)
    assert budget.log == ["reserve check", "finish 1", "reserve check", "finish 2"]


async def test_a_connection_that_drops_midway_is_tried_again() -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"[1,")
        assert request.transport is not None
        request.transport.abort()
        return response

    budget = NotingBudget()
    async with calling(in_turn(drop, answering(200, "[1]")), budget) as get:
        assert await get() == [1]
    assert budget.spent == 2


@pytest.mark.parametrize("url", ["not an address", "ftp://vendor.example.test/", "http://a..b/"])
async def test_an_address_that_cannot_be_is_a_matter_of_configuration(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        http = VendorHttp(session, NotingBudget())
        with pytest.raises(Misconfigured, match="base_url"):
            await http.get_json(url, params={}, headers={}, purpose=Purpose.CHECK)


@pytest.mark.parametrize("status", [200, 301, 302, 400, 401, 404, 429, 500])
async def test_no_error_holds_the_query_the_body_or_the_key(status: int) -> None:
    error = await failure(answering(status, HTML))
    told = "".join(traceback.format_exception(error))
    assert "client12" not in told
    assert KEY not in told
