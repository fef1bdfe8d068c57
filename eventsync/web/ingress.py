"""Takes vendors' webhooks: verifies them, makes them durable, and only then says 200; where an event's path begins.

A vendor that does not redeliver loses for ever what is turned away, so with a valid token every body up to 1 MiB is
stored, whatever its content type, rate or shape.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from eventsync.crypto import hash_token
from eventsync.domain.clock import Clock
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import EventsyncError, Rejected, Transient
from eventsync.domain.events import EventId, new_event_id
from eventsync.domain.payloads import parse_json
from eventsync.spool.entries import UnverifiedEvent
from eventsync.stages.receive import Receiver, incoming
from eventsync.stages.verify import Refusal, Request, TooManyUnknown, VerifierBook, judge
from eventsync.telemetry import Metrics
from eventsync.web.answers import error_answer, json_answer

MAX_BODY_BYTES = 1024 * 1024
_READ_TIMEOUT_S = 30.0
_LOOKUP_TIMEOUT_S = 2.0
_NOT_STORED_RETRY_S = 5.0
_log = structlog.get_logger(__name__)

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
    ) -> None:
        self._receiver = receiver
        self._book = book
        self._vendors = vendors
        self._metrics = metrics
        self._clock = clock
        self._count_refusal = count_refusal
        self._trusted = [ip_network(network) for network in trusted_networks]

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
            raise _Refused(401, "missing_token", "the webhook URL lacks its token: paste the whole URL")
        token_hash = hash_token(token)
        event_id = new_event_id(self._clock(), secrets.token_bytes(10))
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                verifier = await self._book.find(token_hash)
        except TooManyUnknown as error:
            raise _Refused(429, "too_many_unknown_tokens", str(error), error.retry_after_s) from None
        except (EventsyncError, TimeoutError):  # nobody can judge the token now, but what we drop is gone
            return await self._keep_unverified(request, vendor, token_hash, event_id)
        if verifier is None:
            raise _refusal(Refusal.UNKNOWN_TOKEN)
        return await self._accept(request, vendor, token_hash, verifier, event_id)

    async def _accept(
        self, request: web.Request, vendor: str, token_hash: bytes, verifier: WebhookVerifier, event_id: EventId
    ) -> web.Response:
        body = await _read(request)
        judged = Request(vendor, token_hash, request.headers, body, self._remote_address(request))
        refusal = judge(verifier, judged, self._clock())
        if refusal is not None:
            raise _refusal(refusal)
        parked_reason = _reason_to_park(request, body)
        event = incoming(event_id, verifier, tuple(request.headers.items()), body, parked_reason=parked_reason)
        await self._store(self._receiver.receive(event))
        if parked_reason is not None:
            message = f"the body cannot be read ({parked_reason}); it was kept for a person to look at"
            return error_answer(400, parked_reason, message, self._clock())
        return json_answer({"status": "accepted", "event_id": str(event_id)})

    async def _keep_unverified(
        self, request: web.Request, vendor: str, token_hash: bytes, event_id: EventId
    ) -> web.Response:
        body = await _read(request)
        headers = tuple(request.headers.items())
        event = UnverifiedEvent(event_id, vendor, token_hash, headers, body, self._remote_address(request))
        await self._store(self._receiver.receive_unverified(event))
        return json_answer({"status": "accepted", "event_id": str(event_id)})

    async def _store(self, storing: Awaitable[None]) -> None:
        try:
            await storing
        except Transient as error:
            message = "neither PostgreSQL nor the local spool can store the webhook now: send it again"
            raise _Refused(503, "not_stored", message, _NOT_STORED_RETRY_S) from error

    def _remote_address(self, request: web.Request) -> str | None:
        """Find the caller's address: the last one that a proxy of ours did not write for another proxy of ours."""
        chain = [part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",") if part.strip()]
        address = request.remote
        while chain and address is not None and _is_in(address, self._trusted):
            address = chain.pop()
        return address


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


def _refusal(refusal: Refusal) -> _Refused:
    return _Refused(401, refusal.value, _REFUSAL_MESSAGES[refusal])


async def _read(request: web.Request) -> bytes:
    """Read the body as sent, within its bound in size and time."""
    too_large = _Refused(413, "body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise _Refused(408, "body_too_slow", f"the body did not arrive within {_READ_TIMEOUT_S:.0f} s") from None
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise _Refused(400, "body_incomplete", "the connection ended in the middle of the body") from None
    return bytes(body)


def _reason_to_park(request: web.Request, body: bytes) -> str | None:
    """Parse once, to tell the caller at once when the body can never be read; a compressed one is inflated later."""
    if not body:
        return "empty_body"
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    try:
        parse_json(body)
    except Rejected as error:
        return error.reason
    return None


def _is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
