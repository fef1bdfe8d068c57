"""POSTs: sent once, and each failure tells what was never sent from what nobody knows the outcome of."""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from eventsync.domain.errors import Misconfigured, Transient
from eventsync.vendorkit.budget import Purpose, ReservationId
from eventsync.vendorkit.http import NotSent, OutcomeUnknown, PostAnswer, PostBounds, VendorHttp
from unit.test_vendorkit_http import HTML, KEY, NOW, answering, in_turn
from unit.vendor_server import Answer, NotingBudget, vendor_server

POSTED = {"owner_email": "client12@example.test"}

Post = Callable[[], Awaitable[PostAnswer]]


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Make a server's TLS with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=9_999))
    (tmp_path / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@asynccontextmanager
async def posting(answer: Answer, budget: NotingBudget | None = None, **bounds: Any) -> AsyncIterator[Post]:
    async with vendor_server(answer) as url, posting_to(f"{url}/orgs", budget, **bounds) as post:
        yield post


@asynccontextmanager
async def posting_to(url: str, budget: NotingBudget | None = None, **bounds: Any) -> AsyncIterator[Post]:
    async with aiohttp.ClientSession() as session:
        http = VendorHttp(session, budget or NotingBudget(), now=lambda: NOW, post_bounds=PostBounds(**bounds))
        yield lambda: http.post_json(url, POSTED, headers={"Authorization": f"Bearer {KEY}"}, purpose=Purpose.DELIVERY)


@asynccontextmanager
async def raw_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve connections as the test writes them, for what no proper server does; yields the base URL."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 404, 409, 422, 500, 503])
async def test_a_post_is_answered_by_a_value_whatever_its_status(status: int) -> None:
    budget = NotingBudget()

    async def answer(request: web.Request) -> web.Response:
        assert request.method == "POST"
        assert await request.json() == POSTED
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        budget.log.append("called")
        return web.Response(status=status, body=None if status == 204 else b"words", headers={"Retry-After": "7"})

    async with posting(answer, budget) as post:
        answered = await post()
    assert answered == PostAnswer(status, b"" if status == 204 else b"words", is_whole=True, retry_after_s=7.0)
    assert budget.log == ["reserve delivery", "called", "finish 1"]


async def test_a_refused_post_closes_the_budget_for_as_long_as_it_says_or_longer_each_time() -> None:
    budget = NotingBudget()
    stated, silent = answering(429, headers={"Retry-After": "17"}), answering(429)
    async with posting(in_turn(stated, silent, silent, answering(200), silent), budget) as post:
        answers = [await post() for _ in range(5)]
    assert [answer.status for answer in answers] == [429, 429, 429, 200, 429]
    assert budget.refused_s == [17.0, 120.0, 240.0, 60.0]
    assert [answer.retry_after_s for answer in answers] == [17.0, 120.0, 240.0, None, 60.0]


async def test_a_refusal_is_answered_although_the_ledger_is_away() -> None:
    class AwayAfterTheCall(NotingBudget):
        async def finish(self, reservation: ReservationId) -> None:
            await super().finish(reservation)
            raise Transient("PostgreSQL is away or busy")

        async def refused(self, retry_after_s: float) -> None:
            await super().refused(retry_after_s)
            raise Transient("PostgreSQL is away or busy")

    async with posting(answering(429), AwayAfterTheCall()) as post:
        assert (await post()).status == 429


async def test_no_post_is_made_once_the_budget_is_spent() -> None:
    called = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        called.set()
        return web.json_response({})

    async with posting(answer, NotingBudget(allowed=0)) as post:
        with pytest.raises(Transient, match="budget is spent") as caught:
            await post()
    assert caught.value.retry_after_s == 12.0
    assert not called.is_set()


async def test_a_post_to_a_closed_port_was_not_sent() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    budget = NotingBudget()
    async with posting_to(f"http://127.0.0.1:{port}/orgs", budget) as post:
        with pytest.raises(NotSent):
            await post()
    assert budget.log == ["reserve delivery", "finish 1"]


async def test_a_post_to_a_name_that_leads_nowhere_was_not_sent() -> None:
    async with posting_to("http://nowhere.invalid/orgs") as post:
        with pytest.raises(NotSent):
            await post()


async def test_a_post_to_a_server_that_takes_no_connection_in_time_was_not_sent() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):  # fill the queue of those that wait to be accepted: nobody ever is
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with posting_to(f"http://127.0.0.1:{full.getsockname()[1]}/orgs", connect_timeout_s=0.1) as post:
            with pytest.raises(NotSent):
                await post()


async def test_a_post_to_a_server_without_tls_was_not_sent() -> None:
    called = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        called.set()
        return web.json_response({})

    async with vendor_server(answer) as url, posting_to(url.replace("http:", "https:")) as post:
        with pytest.raises(NotSent):
            await post()
    assert not called.is_set()


async def test_a_post_to_a_server_whose_certificate_nobody_vouches_for_was_not_sent(
    self_signed: ssl.SSLContext,
) -> None:
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self_signed)
    async with server, posting_to(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/orgs") as post:
        with pytest.raises(NotSent):
            await post()
    assert not received


async def test_the_outcome_of_a_post_without_an_answer_in_time_is_unknown() -> None:
    asked, never = asyncio.Event(), asyncio.Event()
    budget = NotingBudget()

    async def answer(_request: web.Request) -> web.Response:
        asked.set()
        await never.wait()
        return web.json_response({})

    async with posting(answer, budget, timeout_s=0.1) as post:
        with pytest.raises(OutcomeUnknown, match=r"0\.1 s"):
            await post()
        never.set()
    assert asked.is_set()
    assert budget.log == ["reserve delivery", "finish 1"]


async def test_a_post_whose_connection_breaks_is_sent_once_and_its_outcome_is_unknown() -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"}"))

    async with raw_server(serve) as url, posting_to(f"{url}/orgs") as post:
        with pytest.raises(OutcomeUnknown):
            await post()
    assert len(requests) == 1


async def test_the_outcome_of_a_post_that_is_answered_with_nonsense_is_unknown() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"client12@example.test\r\n\r\n")
        await writer.drain()

    async with raw_server(serve) as url, posting_to(f"{url}/orgs") as post:
        with pytest.raises(OutcomeUnknown) as caught:
            await post()
    assert "client12" not in "".join(traceback.format_exception(caught.value))


async def test_no_post_uses_a_connection_that_was_kept_alive_even_if_the_vendor_keeps_it() -> None:
    connections: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append("")
        while True:
            try:
                connections[-1] += (await reader.readuntil(b"}")).decode()
            except asyncio.IncompleteReadError:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}")
            await writer.drain()

    async with raw_server(serve) as url, posting_to(f"{url}/orgs") as post:
        for _ in range(3):
            assert (await post()).is_whole
    assert [requests.count("POST /orgs") for requests in connections] == [1, 1, 1]
    assert all("connection: close" in requests.lower() for requests in connections)


async def test_a_post_follows_no_redirect() -> None:
    paths = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with posting(answer) as post:
        assert (await post()).status == 307
    assert paths == ["/orgs"]


@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_to_a_post_that_never_ends_is_cut(status: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        try:
            while True:
                await response.write(b"[" * 65_536)
        except ConnectionError:
            return response

    async with posting(answer, max_answer_bytes=100_000) as post:
        answered = await post()
    assert answered == PostAnswer(status, b"[" * 100_000, is_whole=False, retry_after_s=None)


async def test_an_answer_to_a_post_that_breaks_off_or_stalls_keeps_its_status() -> None:
    never = asyncio.Event()

    async def begin(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=401, headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"begun")
        return response

    async def drop(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        await asyncio.sleep(0)
        assert request.transport is not None
        request.transport.close()
        return response

    async def stall(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        await never.wait()
        return response

    async with posting(in_turn(drop, stall), timeout_s=0.3) as post:
        answers = [await post(), await post()]
        never.set()
    assert answers == [PostAnswer(401, b"begun", is_whole=False, retry_after_s=None)] * 2


async def test_a_cancelled_post_is_finished_in_the_budget_and_stays_cancelled() -> None:
    never, asked = asyncio.Event(), asyncio.Event()
    budget = NotingBudget()

    async def answer(_request: web.Request) -> web.Response:
        asked.set()
        await never.wait()
        return web.json_response([])

    async with posting(answer, budget) as post:
        call = asyncio.ensure_future(post())
        await asyncio.wait_for(asked.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        never.set()
    assert budget.log == ["reserve delivery", "finish 1"]


@pytest.mark.parametrize("url", ["not an address", "ftp://vendor.example.test/", "http://a..b/", "http://.b/"])
async def test_an_address_that_cannot_be_posted_to_is_a_matter_of_configuration(url: str) -> None:
    async with posting_to(url) as post:
        with pytest.raises(Misconfigured, match="base_url"):
            await post()


async def test_neither_an_error_nor_an_answer_to_a_post_shows_what_was_sent_or_said() -> None:
    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with posting(in_turn(drop, answering(400, HTML))) as post:
        with pytest.raises(OutcomeUnknown) as caught:
            await post()
        told = "".join(traceback.format_exception(caught.value)) + repr(await post())
    assert "client12" not in told
    assert KEY not in told
