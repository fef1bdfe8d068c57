"""Serves one aiohttp application as a worker: opens the port, and on its end lets requests in flight finish."""

from __future__ import annotations

import asyncio
import logging

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from eventsync.domain.errors import Misconfigured

_log = structlog.get_logger(__name__)
_SHUTDOWN_S = 15.0
_ACCESS_LOG = logging.getLogger("eventsync.access")  # aiohttp wants one, although AccessLog writes through structlog


class WebServer:
    """One port. `address` tells where it listens once `open` has returned (port 0 takes a free one)."""

    def __init__(self, name: str, app: web.Application, host: str, port: int) -> None:
        self.name = name
        self._app = app
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def open(self) -> None:
        """Take the port and begin to serve. Raises Misconfigured when the port is taken."""
        runner = web.AppRunner(
            self._app,
            handle_signals=False,
            auto_decompress=False,  # bodies are stored as received; a bomb must not go off at the door
            access_log_class=AccessLog,
            access_log=_ACCESS_LOG,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=1024).start()
        except OSError as error:
            await runner.cleanup()
            raise Misconfigured(
                f"cannot listen on {self._host}:{self._port} ({error.strerror}): choose another port"
            ) from error
        host, self._port = runner.addresses[0][:2]
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
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


class AccessLog(AbstractAccessLogger):
    """One line a request, by its route: paths and queries hold tokens and patients' ids."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line; probes and successes are left to the metrics."""
        if response.status < 400:  # HTTP's own boundary
            return
        match = getattr(request, "match_info", None)
        resource = None if match is None else match.route.resource
        route = "unmatched" if resource is None else resource.canonical
        _log.info("request", method=request.method, route=route, status=response.status, ms=round(time * 1000))
