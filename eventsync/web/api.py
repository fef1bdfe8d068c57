"""The management API's frame: asks every request who makes it, reads it, calls the endpoint, answers or says why not.

Nothing under /api/ but the webhooks is answered without a token, whether an endpoint asks for it or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from eventsync.domain.clock import Clock
from eventsync.domain.errors import Transient
from eventsync.web.api_calls import Answer, Body, Call, Endpoint
from eventsync.web.api_errors import ApiError, answer_of
from eventsync.web.auth import Authenticator, Caller
from eventsync.web.openapi import describe

CALLER = web.RequestKey("caller", Caller)
_PREFIX = "/api/"
_WEBHOOKS = "/api/webhooks/"
_TIMEOUT_S = 30.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The endpoints, guarded. Those of others under /api/ in the same application are guarded as well.

    `stop_waiting` is called when the application ends, for calls that wait to be answered with what there is.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        endpoints: Iterable[Endpoint],
        clock: Clock,
        *,
        stop_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._stop_waiting = stop_waiting
        own = Endpoint("GET", "/api/openapi.json", self._described, dict, "This description (OpenAPI 3.1)")
        self.endpoints = (*endpoints, own)
        self._cron_routes = frozenset((each.method, each.path) for each in self.endpoints if each.takes_cron_secret)
        self._description = describe(self.endpoints)

    def add_routes(self, app: web.Application) -> None:
        """Put the endpoints and their guard into `app`."""
        app.middlewares.append(self._guard)
        app.on_shutdown.append(self._shut_down)
        for endpoint in self.endpoints:
            app.router.add_route(endpoint.method, endpoint.path, self._handler(endpoint))

    async def _shut_down(self, _app: web.Application) -> None:
        self._stop_waiting()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not _is_guarded(request):
            return await handler(request)
        return await self._answered(self._authenticated(request, handler))

    async def _authenticated(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        request[CALLER] = await self._authenticator.caller(
            request.headers, takes_cron_secret=(request.method, _route_of(request)) in self._cron_routes
        )
        return await handler(request)

    def _handler(self, endpoint: Endpoint) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answered(self._call(endpoint, request))

        return handle

    async def _answered(self, answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        try:
            response = await answer
        except Exception as error:  # noqa: BLE001  # a fault of ours is an answer too, and not a stack trace
            response = answer_of(error, self._clock)
        if not response.prepared:
            response.headers["Cache-Control"] = "no-store"  # what is personal stays out of every cache
        return response

    async def _call(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        caller = request[CALLER]
        caller.require(endpoint.roles)
        arguments = endpoint.read(request.match_info, request.query)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                sent = await _read_body(request, endpoint.body)
                answer = await endpoint.handle(Call(caller, arguments, sent))
        except TimeoutError:
            raise Transient(f"no answer within {_TIMEOUT_S:g} s") from None
        answer = answer if isinstance(answer, Answer) else Answer(200, answer)
        body = orjson.dumps(answer.body, default=_json_value, option=orjson.OPT_UTC_Z)
        return web.Response(status=answer.status, body=body, content_type="application/json")

    async def _described(self, _call: Call) -> object:
        return self._description


def _is_guarded(request: web.Request) -> bool:
    """Judge by the route that will answer, not by how its path is written."""
    path = request.path if (route := _route_of(request)) is None else route
    return path.startswith(_PREFIX) and not path.startswith(_WEBHOOKS)


def _route_of(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


async def _read_body(request: web.Request, wanted: Body | None) -> Any:
    """Read what was sent along; refuse what would be ignored.

    A `dry_run` that is sent in a body must not be taken for a real run.
    """
    try:
        body = (await request.read()).strip()
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise ApiError(400, "body_incomplete", "the connection ended in the middle of the body") from None
    if wanted is not None:
        return _understood(body or b"{}", wanted)
    if body not in (b"", b"{}"):
        raise ApiError(400, "unexpected_body", "this takes no body: parameters stand in the query, as ?dry_run=true")
    return None


def _understood(body: bytes, wanted: Body) -> Any:
    try:
        given = orjson.loads(body)
        if not isinstance(given, dict):
            raise ApiError(400, "invalid_body", "the body is not a JSON object, which /api/openapi.json describes")
        return wanted.read(given)
    except orjson.JSONDecodeError:  # a ValueError whose text would quote the body
        raise ApiError(400, "invalid_body", "the body is not JSON in UTF-8: see /api/openapi.json") from None
    except ValueError as error:
        raise ApiError(400, "invalid_body", f"the body is not as expected: {error}") from None


def _json_value(value: object) -> str:
    if isinstance(value, (UUID, Decimal)):  # the driver's own subclass of UUID, which orjson does not take for one
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
