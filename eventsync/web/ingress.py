"""Takes vendors' webhooks: verifies them, makes them durable, and only then says 200; where an event's path begins.

A vendor that does not redeliver loses for ever what is turned away, so with a valid token every body up to 1 MiB is
stored, whatever its content type, rate or shape.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from eventsync.crypto import hash_token
from eventsync.domain.clock import Clock
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import EventsyncError, Transient
from eventsync.domain.events import EventId, new_event_id
from eventsync.spool.entries import UnverifiedEvent
from eventsync.stages.incoming import incoming, without_token
from eventsync.stages.receive import Receiver
from eventsync.stages.verify import Refusal, Request, StrangerLimit, VerifierBook, judge, plain_address
from eventsync.telemetry import Metrics
from eventsync.web.answers import error_answer, json_answer

MAX_BODY_BYTES = 1024 * 1024
_NOT_STORED_RETRY_S = 5.0
_STRANGERS_RETRY_S = 1.0

CountRefusal = Callable[[str, str], None]


class Ingress:
    """The webhook endpoints. `count_refusal` takes (vendor, reason) as evidence of what was turned away."""

    def __init__(
        self,
        receiver: Receiver,
        book: VerifierBook,
        vendors: Collection[str],
        metrics: Metrics,
        clock: Clock,
        *,
        count_refusal: CountRefusal,
        trusted_networks: Sequence[str] = (),
        read_timeout_s: float = 30.0,
    ) -> None:
        self._receiver = receiver
        self._book = book
        self._vendors = vendors
        self._metrics = metrics
        self._clock = clock
        self._count_refusal = count_refusal
        self._trusted = [ip_network(network) for network in trusted_networks]
        self._read_timeout_s = read_timeout_s
        self._strangers = StrangerLimit(clock)

    def add_routes(self, app: web.Application) -> None:
        """Put the endpoints into `app`: the token is a path segment, or the query's `token`."""
        app.router.add_post("/api/webhooks/{vendor}/{token}", self.handle)
        app.router.add_post("/api/webhooks/{vendor}", self.handle)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one webhook."""
        with self._metrics.ingress_seconds.time():
            try:
                return await self._handle(request)
            except _Refused as refused:
                vendor = request.match_info["vendor"] if request.match_info["vendor"] in self._vendors else "unknown"
                self._metrics.refused.labels(vendor=vendor, reason=refused.code).inc()
                self._count_refusal(vendor, refused.code)
                return error_answer(
                    refused.status, refused.code, refused.message, self._clock(), retry_after_s=refused.retry_after_s
                )

    async def _handle(self, request: web.Request) -> web.Response:
        vendor = request.match_info["vendor"]
        if vendor not in self._vendors:
            raise _Refused(404, "unknown_vendor", "no such vendor: the webhook URL is not one that eventsync printed")
        token = request.match_info.get("token") or request.query.get("token")
        if not token:
            raise self._stranger("missing_token", "the webhook URL lacks its token: paste the whole URL")
        caller = _Caller(
            vendor, hash_token(token), without_token(tuple(request.headers.items()), token), self._now_id()
        )
        try:
            verifier = await self._book.find(caller.token_hash)
        except EventsyncError:  # nobody can judge the token now, but what we drop is gone
            return await self._keep_unverified(request, caller)
        if verifier is None:
            raise self._stranger(Refusal.UNKNOWN_TOKEN.value, _REFUSAL_MESSAGES[Refusal.UNKNOWN_TOKEN])
        return await self._accept(request, caller, verifier)

    async def _accept(self, request: web.Request, caller: _Caller, verifier: WebhookVerifier) -> web.Response:
        body = await self._read(request)
        headers = () if verifier.hmac is None else tuple(request.headers.items())  # read for a signature only
        judged = Request(caller.vendor, caller.token_hash, headers, body, self._remote_address(request))
        refusal = judge(verifier, judged, self._clock())
        if refusal is not None:
            raise _Refused(401, refusal.value, _REFUSAL_MESSAGES[refusal])
        event = incoming(caller.event_id, verifier, caller.headers, body)
        await self._store(self._receiver.receive(event))
        if event.parked_reason is not None:
            message = f"the body cannot be read ({event.parked_reason}); it was kept for a person to look at"
            return error_answer(400, event.parked_reason, message, self._clock())
        return _accepted(caller.event_id)

    async def _keep_unverified(self, request: web.Request, caller: _Caller) -> web.Response:
        body = await self._read(request)
        address = self._remote_address(request)
        event = UnverifiedEvent(caller.event_id, caller.vendor, caller.token_hash, caller.headers, body, address)
        await self._store(self._receiver.receive_unverified(event))
        return _accepted(caller.event_id)

    async def _store(self, storing: Awaitable[None]) -> None:
        try:
            await storing
        except Transient as error:
            message = "neither PostgreSQL nor the local spool can store the webhook now: send it again"
            raise _Refused(503, "not_stored", message, _NOT_STORED_RETRY_S) from error

    async def _read(self, request: web.Request) -> bytes:
        """Read the body as sent, within its bound in size and time."""
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            if request.content.is_eof():  # all of it came with the head, as most bodies do
                body = request.content.read_nowait()
            else:
                async with asyncio.timeout(self._read_timeout_s):
                    body = await _read_chunks(request)
        except TimeoutError:
            message = f"the body did not arrive within {self._read_timeout_s:g} s"
            raise _Refused(408, "body_too_slow", message) from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise _Refused(400, "body_incomplete", "the connection ended in the middle of the body") from None
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        return body

    def _stranger(self, code: str, message: str) -> _Refused:
        """Turn away a caller without a valid token: 401, and 429 for too many of them, which no valid caller sees."""
        if self._strangers.is_exceeded():
            message = "too many requests without a valid token: check the webhook URL, then send it again"
            return _Refused(429, "too_many_strangers", message, _STRANGERS_RETRY_S)
        return _Refused(401, code, message)

    def _now_id(self) -> EventId:
        return new_event_id(self._clock(), secrets.token_bytes(10))

    def _remote_address(self, request: web.Request) -> str | None:
        """Find the caller's address: the last one that a proxy of ours did not write for another proxy of ours."""
        if not self._trusted:
            return request.remote
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
        chain = [part for part in forwarded.split(",") if part.strip()]
        address = request.remote
        while chain and self._is_trusted(address):
            address = chain.pop()
        return None if address is None else address.strip()

    def _is_trusted(self, address: str | None) -> bool:
        parsed = plain_address(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


@dataclass(frozen=True, slots=True)
class _Caller:
    """What is known of a request before its body is read."""

    vendor: str
    token_hash: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    event_id: EventId


class _Refused(Exception):  # never leaves this module
    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


_REFUSAL_MESSAGES = {
    Refusal.UNKNOWN_TOKEN: "the token in the webhook URL is not valid: paste the URL of `eventsync connections reveal`",
    Refusal.EXPIRED_TOKEN: "the token in the webhook URL was rotated: paste the URL of `eventsync connections reveal`",
    Refusal.WRONG_VENDOR: "the token belongs to a connection of another vendor",
    Refusal.WRONG_SIGNATURE: "the signature is missing or does not fit the body",
    Refusal.ADDRESS_NOT_ALLOWED: "the caller's address is not on the connection's list",
}


async def _read_chunks(request: web.Request) -> bytes:
    """Read a body that is still on its way; one that is too large only as far as that shows."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body)


def _too_large() -> _Refused:
    return _Refused(413, "body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")


def _accepted(event_id: EventId) -> web.Response:
    return json_answer({"status": "accepted", "event_id": event_id})
