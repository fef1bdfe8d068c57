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
from eventsync.sandbox.spoiling import Spoiler, cut, html_page, is_cut
from eventsync.sandbox.stats import Stats
from eventsync.sandbox.vendor import ApiForm

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiGate:
    """Checks, counts and spoils API calls; `api_key`, `quota` and `faults` may be replaced while it runs.

    Routes are counted in full, and known to the script without the form's prefix.
    """

    def __init__(
        self,
        *,
        form: ApiForm,
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
        self._form = form
        self._spoiler = Spoiler(form)
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
            answer = await self._answer(route.removeprefix(self._form.prefix), request, handler)
            self._stats.api_answers["none" if is_cut(request) else str(answer.status)] += 1
            return answer

        return through_gate

    async def _answer(self, route: str, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get(self._form.auth_header) != self._form.auth_prefix + self.api_key:
            return self._refusal("Unauthorized", 401)
        wait_s = self.quota.take(self._clock.now_ms())
        if wait_s is not None:
            self._stats.rate_limited += 1
            refusal = self._refusal("Too many requests", 429)
            if self.quota.limits.retry_after:
                refusal.headers["Retry-After"] = str(wait_s)
            return refusal
        due = self.script.play(request.method, route, request.query)
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
            return self._refusal("An error has occurred.", fault.status)
        if fault.kind is ApiFaultKind.HTML:
            return html_page(fault.status, "We are down for maintenance")
        answer = await self._true_answer(request, handler)
        return cut(request) if fault.kind is ApiFaultKind.LOST else answer

    async def _true_answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPBadRequest, web.HTTPMethodNotAllowed) as refused:
            return self._refusal(refused.text or refused.reason, refused.status)

    def _refusal(self, words: str, status: int) -> web.Response:
        return web.json_response(self._form.error_body(words), status=status)


async def _run(hooks: Sequence[Hook | None]) -> None:
    for hook in hooks:
        if hook is not None:
            await hook()
