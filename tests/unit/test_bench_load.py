"""The load generator of the benchmarks, against small servers: what it counts, and from when."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from eventsync.bench.connection import LoadError
from eventsync.bench.latencies import Latencies, latencies_of
from eventsync.bench.load import closed_loop, open_loop
from servers.ports import free_ports

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODIES = [orjson.dumps({"number": number, "filling": "x" * (number % 7)}) for number in range(50)]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """Serve POSTs by `handler`; gives the URL."""
    app = web.Application()
    app.router.add_post("/in/token", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/in/token?kind=test"
    finally:
        await runner.cleanup()


def accepted(number: int) -> web.Response:
    """Answer as eventsync does, with an id made of the body's number."""
    return web.json_response({"status": "accepted", "event_id": str(UUID(int=number))})


async def number_of(request: web.Request) -> int:
    number: int = (await request.json())["number"]
    return number


async def test_each_webhook_is_posted_once_and_its_id_stands_at_its_place() -> None:
    seen: list[tuple[int, str, str]] = []
    told: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        number = await number_of(request)
        seen.append((number, request.query["kind"], request.content_type))
        return accepted(number)

    async with served(handler) as url:
        result = await closed_loop(url, BODIES, connections=8, on_progress=told.append)
    assert sorted(seen) == [(number, "test", "application/json") for number in range(50)]
    assert result.event_ids == tuple(UUID(int=number) for number in range(50))
    assert (result.sent, result.accepted, result.refused, result.unanswered) == (50, 50, 0, 0)
    assert 0 < result.latencies.p50_ms <= result.latencies.p99_ms <= result.seconds * 1000
    assert result.events_per_s == pytest.approx(50 / result.seconds)
    assert told[-1] == 50


async def test_refused_webhooks_are_counted_by_status_and_have_no_id() -> None:
    async def handler(request: web.Request) -> web.Response:
        number = await number_of(request)
        return web.Response(status=401 if number < 3 else 503) if number < 5 else accepted(number)

    async with served(handler) as url:
        result = await closed_loop(url, BODIES, connections=4)
    assert (result.sent, result.accepted, result.refused, result.unanswered) == (50, 45, 5, 0)
    assert result.statuses == {401: 3, 503: 2}
    assert result.event_ids[:6] == (None, None, None, None, None, UUID(int=5))


async def test_an_accepting_answer_without_an_id_is_accepted_all_the_same() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text="ok", status=202)

    async with served(handler) as url:
        result = await closed_loop(url, BODIES[:3])
    assert (result.accepted, result.event_ids) == (3, (None, None, None))


async def test_a_server_that_ends_each_connection_after_its_answer_gets_every_webhook() -> None:
    async def handler(request: web.Request) -> web.Response:
        answer = accepted(await number_of(request))
        answer.force_close()
        return answer

    async with served(handler) as url:
        result = await closed_loop(url, BODIES, connections=4)
    assert (result.accepted, result.unanswered) == (50, 0)


async def test_a_connection_that_is_cut_leaves_its_webhook_unanswered_and_is_opened_again() -> None:
    async def handler(request: web.Request) -> web.Response:
        number = await number_of(request)
        if number % 10 == 3:
            assert request.transport is not None
            request.transport.abort()
        return accepted(number)

    async with served(handler) as url:
        result = await closed_loop(url, BODIES, connections=2)
    assert (result.sent, result.accepted, result.unanswered) == (50, 45, 5)
    assert [number for number, event_id in enumerate(result.event_ids) if event_id is None] == [3, 13, 23, 33, 43]


async def test_an_answer_that_does_not_come_in_time_is_not_waited_for() -> None:
    async def handler(request: web.Request) -> web.Response:
        number = await number_of(request)
        if number == 7:
            await asyncio.Event().wait()
        return accepted(number)

    async with served(handler) as url:
        result = await closed_loop(url, BODIES, connections=2, timeout_s=0.2)
    assert (result.accepted, result.unanswered) == (49, 1)


async def test_a_server_that_is_gone_for_good_leaves_the_rest_unsent() -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        server.close()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    result = await closed_loop(url, BODIES, connections=1, timeout_s=0.3)
    assert (result.sent, result.accepted, result.unanswered) == (1, 1, 0)


async def test_an_answer_that_comes_in_pieces_is_put_together() -> None:
    async def answer_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = orjson.dumps({"event_id": str(UUID(int=1))})
        for _ in range(2):
            await reader.readuntil(b"}")
            for byte in b"HTTP/1.1 200 OK\r\ncontent-LENGTH: %d\r\n\r\n%b" % (len(body), body):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_server(answer_slowly, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await closed_loop(url, BODIES[:2], connections=1)
    assert result.event_ids == (UUID(int=1), UUID(int=1))


async def test_where_nobody_listens_there_is_no_load() -> None:
    (port,) = free_ports(1)
    with pytest.raises(LoadError, match="nobody answers"):
        await closed_loop(f"http://127.0.0.1:{port}/", BODIES)


async def test_an_answer_without_a_length_is_not_guessed_at() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write_eof(b"{}")
        return answer

    async with served(handler) as url:
        with pytest.raises(LoadError, match="Content-Length"):
            await closed_loop(url, BODIES)


async def test_at_a_fixed_rate_a_webhook_that_had_to_wait_is_not_made_to_look_fast() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0.03)  # three times as slow as webhooks are due
        return accepted(await number_of(request))

    async with served(handler) as url:
        open_result = await open_loop(url, BODIES[:20], rate_per_s=100, connections=1)
        closed_result = await closed_loop(url, BODIES[:20], connections=1)
    assert open_result.latencies.p99_ms > 20 * 30 - 20 * 10  # the last was due when six had been answered
    assert closed_result.latencies.p50_ms < open_result.latencies.p50_ms


async def test_a_fixed_rate_is_kept() -> None:
    async def handler(request: web.Request) -> web.Response:
        return accepted(await number_of(request))

    async with served(handler) as url:
        result = await open_loop(url, BODIES, rate_per_s=200)
    assert result.accepted == 50
    assert 49 / 200 <= result.seconds < 2


async def test_header_lines_are_made_for_each_body() -> None:
    numbers = itertools.count()
    signed: set[str] = set()

    async def handler(request: web.Request) -> web.Response:
        signed.add(request.headers["X-Signature"])
        return accepted(await number_of(request))

    async with served(handler) as url:
        await closed_loop(url, BODIES[:5], header_lines=lambda _: b"X-Signature: s%d\r\n" % next(numbers))
    assert signed == {"s0", "s1", "s2", "s3", "s4"}


async def test_nothing_to_send_is_sent_at_once() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    async with served(handler) as url:
        result = await closed_loop(url, [])
    assert (result.sent, result.accepted, result.events_per_s) == (0, 0, 0.0)


def test_percentiles_are_latencies_that_were_measured() -> None:
    assert latencies_of(range(1, 101)) == Latencies(50, 95, 99)
    assert latencies_of([7.5]) == Latencies(7.5, 7.5, 7.5)
    assert latencies_of([]) == Latencies(0, 0, 0)
