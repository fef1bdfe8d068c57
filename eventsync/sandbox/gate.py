"""What every API call passes first: the key, the quota, then the faults."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.faults import ApiFaultKind, Faults, plan_api_call
from eventsync.sandbox.quota import Quota
from eventsync.sandbox.stats import Stats

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def html_page(status: int, text: str) -> web.Response:
    """A page for people, where a program expected JSON."""
    page = f"<!DOCTYPE html><html><head><title>{text}</title></head><body><h1>{text}</h1></body></html>"
    return web.Response(text=page, status=status, content_type="text/html")


class ApiGate:
    """Checks, counts and spoils API calls; `quota` and `faults` may be replaced while it runs."""

    def __init__(
        self,
        *,
        header: str,
        api_key: str,
        quota: Quota,
        faults: Faults,
        rng: random.Random,
        clock: SandboxClock,
        stats: Stats,
    ) -> None:
        self.api_key = api_key
        self.quota = quota
        self.faults = faults
        self._header = header
        self._rng = rng
        self._clock = clock
        self._stats = stats

    def middleware(self) -> Middleware:
        """The aiohttp middleware of the API's application."""

        @web.middleware
        async def through_gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unknown"
            self._stats.api_calls[f"{request.method} {route}"] += 1
            answer = await self._answer(request, handler)
            self._stats.api_answers[str(answer.status)] += 1
            return answer

        return through_gate

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get(self._header) != self.api_key:
            return web.json_response({"Message": "Unauthorized"}, status=401)
        wait_s = self.quota.take(self._clock.now_ms())
        if wait_s is not None:
            self._stats.rate_limited += 1
            headers = {"Retry-After": str(wait_s)} if self.quota.limits.retry_after else {}
            return web.json_response({"Message": "Too many requests"}, status=429, headers=headers)
        fault = plan_api_call(self.faults, self._rng)
        if fault.wait_s > 0:
            await asyncio.sleep(fault.wait_s)
        if fault.kind is ApiFaultKind.ERROR:
            return web.json_response({"Message": "An error has occurred."}, status=fault.status)
        if fault.kind is ApiFaultKind.HTML:
            return html_page(fault.status, "We are down for maintenance")
        try:
            return await handler(request)
        except (web.HTTPBadRequest, web.HTTPMethodNotAllowed) as refused:
            return web.json_response({"Message": refused.text}, status=refused.status)
