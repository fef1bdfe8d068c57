"""What every API call passes first: the key, the quota, the script, then the faults."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.faults import ApiFaultKind, Faults, plan_api_call
from eventsync.sandbox.quota import Quota
from eventsync.sandbox.script import ApiScript, Hook
from eventsync.sandbox.spoiling import Spoiler, html_page
from eventsync.sandbox.stats import Stats

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiGate:
    """Checks, counts and spoils API calls; `api_key`, `quota` and `faults` may be replaced while it runs.

    Routes are counted in full, and known to the script without `prefix`.
    """

    def __init__(
        self,
        *,
        header: str,
        prefix: str,
        script: ApiScript,
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
        self.script = script
        self._header = header
        self._prefix = prefix
        self._spoiler = Spoiler()
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
            answer = await self._answer(route.removeprefix(self._prefix), request, handler)
            self._stats.api_answers[str(answer.status)] += 1
            return answer

        return through_gate

    async def _answer(self, route: str, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get(self._header) != self.api_key:
            return web.json_response({"Message": "Unauthorized"}, status=401)
        wait_s = self.quota.take(self._clock.now_ms())
        if wait_s is not None:
            self._stats.rate_limited += 1
            headers = {"Retry-After": str(wait_s)} if self.quota.limits.retry_after else {}
            return web.json_response({"Message": "Too many requests"}, status=429, headers=headers)
        due = self.script.play(route, request.query)
        await _run([call.before for call in due])
        scripted = next((call for call in due if call.answer is not None), None)
        answer = await self._spoiler.answer(scripted, route, request, lambda: self._by_chance(request, handler))
        await _run([call.after for call in due])
        return answer

    async def _by_chance(self, request: web.Request, handler: Handler) -> web.StreamResponse:
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


async def _run(hooks: Sequence[Hook | None]) -> None:
    for hook in hooks:
        if hook is not None:
            await hook()
