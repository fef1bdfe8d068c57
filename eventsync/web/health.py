"""Says whether this process is alive, and of each of its parts whether it is ready and if not, why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from aiohttp import web

from eventsync.domain.errors import EventsyncError
from eventsync.stages.patience import Patience
from eventsync.telemetry import CONTENT_TYPE, Metrics
from eventsync.web.answers import json_answer

_CHECK_TIMEOUT_S = 3.0
_log = structlog.get_logger(__name__)


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
        self,
        parts: Callable[[], Sequence[Part]],
        metrics: Metrics,
        refresh: Callable[[], Awaitable[None]],
        *,
        check_timeout_s: float = _CHECK_TIMEOUT_S,
    ) -> None:
        self._make_parts = parts
        self._metrics = metrics
        self._refresh = refresh
        self._patience = Patience(check_timeout_s)
        self._asked: dict[str, asyncio.Task[str]] = {}

    def add_routes(self, app: web.Application) -> None:
        """Put the endpoints into `app`."""
        app.router.add_get("/healthz", self.alive)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/metrics", self.metrics)
        app.on_cleanup.append(self._close)

    async def alive(self, _request: web.Request) -> web.Response:
        """Answer as long as the event loop turns."""
        return json_answer({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 200 when every blocking part is ready, else 503; the body names each part's reason."""
        checked = self._make_parts()
        reasons = await asyncio.gather(*(self._ask(part.name, part.check) for part in checked))
        ready = not any(reason and part.blocks for part, reason in zip(checked, reasons, strict=True))
        parts = {
            part.name: {"ready": not reason, "reason": reason} for part, reason in zip(checked, reasons, strict=True)
        }
        return json_answer({"ready": ready, "parts": parts}, status=200 if ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the metrics; figures that are kept in PostgreSQL stay at their last value while it is away."""
        await self._ask("metrics", self._refreshed)  # the last known figures are better than none
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _refreshed(self) -> str:
        await self._refresh()
        return ""

    async def _ask(self, name: str, check: Callable[[], Awaitable[str]]) -> str:
        """Ask a part, together with all who want to know: probes must not use up what a part that hangs has left."""
        if name not in self._asked:
            self._asked[name] = asyncio.create_task(self._answer(name, check))
            self._asked[name].add_done_callback(lambda _: self._asked.pop(name))
        return await asyncio.shield(self._asked[name])

    async def _answer(self, name: str, check: Callable[[], Awaitable[str]]) -> str:
        try:
            return await self._patience.wait_for(_awaited(check))
        except TimeoutError:
            return f"no answer within {self._patience.limit_s:g} s"
        except EventsyncError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  # a check that is wrong must not hide what the others say
            _log.error("check_failed", part=name, exception=type(error).__name__)
            return f"internal error ({type(error).__name__})"

    async def _close(self, _app: web.Application) -> None:
        await self._patience.close()


async def _awaited(check: Callable[[], Awaitable[str]]) -> str:
    return await check()
