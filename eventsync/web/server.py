"""Serves one aiohttp application as a worker: opens the port, and on its end lets requests in flight finish."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger

from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured
from eventsync.web.answers import error_answer

_log = structlog.get_logger(__name__)
_SHUTDOWN_S = 15.0
_KEEPALIVE_S = 75.0  # longer than a reverse proxy keeps idle connections; also the limit for the request's head
_MAX_FIELD_BYTES = 32 * 1024  # a gateway's cookies and certificates fit; a webhook must not be lost for them
_MAX_FIELDS = 256
_ACCESS_LOG = logging.getLogger("eventsync.access")  # aiohttp wants one, although AccessLog writes through structlog
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """One port. `address` tells where it listens once `open` has returned (port 0 takes a free one)."""

    def __init__(
        self, name: str, app: web.Application, host: str, port: int, *, clock: Clock = lambda: datetime.now(UTC)
    ) -> None:
        self.name = name
        self._app = app
        self._host = host
        self._port = port
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._socket: asyncio.Server | None = None
        self.address = ""
        app.middlewares.insert(0, self._as_our_errors)  # around all others, which know better what went wrong

    async def open(self) -> None:
        """Take the port and begin to serve. Raises Misconfigured when the port is taken."""
        runner = web.AppRunner(self._app, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._socket = await loop.create_server(self._protocols(runner), self._host, self._port, backlog=1024)
        except OSError as error:
            await runner.cleanup()
            raise Misconfigured(
                f"cannot listen on {self._host}:{self._port} ({error.strerror}): choose another port"
            ) from error
        host, self._port = self._socket.sockets[0].getsockname()[:2]
        self._runner = runner
        self.address = f"http://{host}:{self._port}"
        _log.info("listening", server=self.name, address=self.address)

    async def run(self) -> None:
        """Serve until cancelled; then requests in flight may finish. Raises Misconfigured when the port is taken."""
        if self._runner is None:
            await self.open()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(self.close())

    async def close(self) -> None:
        """Take no more requests, and let those in flight finish."""
        if self._socket is not None:
            self._socket.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _protocols(self, runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
        server = runner.server
        assert server is not None  # noqa: S101  # set up just before
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            return _Connection(
                server,
                loop=loop,
                auto_decompress=False,  # bodies are stored as received; a bomb must not go off at the door
                access_log_class=AccessLog,
                access_log=_ACCESS_LOG,
                keepalive_timeout=_KEEPALIVE_S,
                max_field_size=_MAX_FIELD_BYTES,
                max_headers=_MAX_FIELDS,
            )

        return make

    @web.middleware
    async def _as_our_errors(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Answer what no handler answers (no such path, a fault of ours) in our errors' shape, quoting nothing."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:  # a redirect is an answer
                raise
            status = HTTPStatus(error.status)
            answer = error_answer(error.status, status.name.lower(), status.phrase, self._clock())
            answer.headers.extend({name: error.headers[name] for name in ("Allow",) if name in error.headers})
            return answer
        except Exception as error:  # noqa: BLE001  # aiohttp would log the trace, whose texts can quote a body
            _log.error("request_failed", route=_route(request), exception=type(error).__name__)
            return error_answer(500, "internal_error", "an error of eventsync's own: see its log", self._clock())


class _Connection(web.RequestHandler):
    """One caller's connection. What is not HTTP is answered and logged without repeating it, as aiohttp would."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002  # its text quotes the request, and so the token
        message: str | None = None,  # noqa: ARG002  # so does this
    ) -> web.StreamResponse:
        """Answer a request that cannot be understood."""
        answer = error_answer(status, "bad_request", "this is not a valid HTTP request", datetime.now(UTC))
        answer.force_close()
        return answer

    def log_exception(self, *_args: object, exc_info: object = None, **_more: object) -> None:
        """Note a fault within a connection, without its trace, whose texts can quote a request."""
        _log.error("connection_failed", exception=type(exc_info).__name__)


class AccessLog(AbstractAccessLogger):
    """One line a request, by its route: paths and queries hold tokens and patients' ids."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line; probes and successes are left to the metrics."""
        if response.status < 400:  # HTTP's own boundary
            return
        method = request.method if request.method in hdrs.METH_ALL else "other"
        _log.info("request", method=method, route=_route(request), status=response.status, ms=round(time * 1000))


def _route(request: web.BaseRequest) -> str:
    match = getattr(request, "match_info", None)
    resource = None if match is None else match.route.resource
    return "unmatched" if resource is None else resource.canonical
