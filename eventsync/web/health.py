"""Says whether this process is alive, and of each of its parts whether it is ready and if not, why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from eventsync.domain.errors import EventsyncError
from eventsync.telemetry import CONTENT_TYPE, Metrics
from eventsync.web.answers import json_answer

_CHECK_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the process. `check` answers why it is not ready, or an empty text.

    A part that does not block is shown, but does not make the whole unready: the door takes webhooks into its spool
    while PostgreSQL is away, and must not be taken out of service just then.
    """

    name: str
    check: Callable[[], Awaitable[str]]
    blocks: bool = True


class Health:
    """The endpoints that every role has."""

    def __init__(
        self, parts: Callable[[], Sequence[Part]], metrics: Metrics, refresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._make_parts = parts
        self._metrics = metrics
        self._refresh = refresh

    def add_routes(self, app: web.Application) -> None:
        """Put the endpoints into `app`."""
        app.router.add_get("/healthz", self.alive)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/metrics", self.metrics)

    async def alive(self, _request: web.Request) -> web.Response:
        """Answer as long as the event loop turns."""
        return json_answer({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 200 when every blocking part is ready, else 503; the body names each part's reason."""
        checked = self._make_parts()
        reasons = await asyncio.gather(*(_reason(part) for part in checked))
        ready = not any(reason and part.blocks for part, reason in zip(checked, reasons, strict=True))
        parts = {
            part.name: {"ready": not reason, "reason": reason} for part, reason in zip(checked, reasons, strict=True)
        }
        return json_answer({"ready": ready, "parts": parts}, status=200 if ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the metrics; figures that are kept in PostgreSQL stay at their last value while it is away."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await self._refresh()
        except (TimeoutError, EventsyncError):
            pass  # the last known figures are better than none, and readyz says that PostgreSQL is away
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


async def _reason(part: Part) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return await part.check()
    except TimeoutError:
        return f"no answer within {_CHECK_TIMEOUT_S:.0f} s"
    except EventsyncError as error:
        return str(error)
