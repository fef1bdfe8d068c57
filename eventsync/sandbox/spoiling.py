"""Turns what the script says of an API call into an answer, or into none."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from eventsync.sandbox.script import ApiAnswer, ScriptedCall
from eventsync.sandbox.vendor import ApiForm

Answering = Callable[[], Awaitable[web.StreamResponse]]

_MESSAGES = {401: "Unauthorized", 403: "Forbidden", 429: "Too many requests"}


def html_page(status: int, text: str) -> web.Response:
    """A page for people, where a program expected JSON."""
    page = f"<!DOCTYPE html><html><head><title>{text}</title></head><body><h1>{text}</h1></body></html>"
    return web.Response(text=page, status=status, content_type="text/html")


class Spoiler:
    """Makes scripted answers; it remembers the last good body of each route for pages that repeat."""

    def __init__(self, form: ApiForm) -> None:
        self._form = form
        self._last_bodies: dict[str, bytes] = {}

    async def answer(
        self, call: ScriptedCall | None, route: str, request: web.Request, true_answer: Answering
    ) -> web.StreamResponse:
        """The scripted answer, or the true one where nothing is scripted."""
        kind = None if call is None else call.answer
        if kind is ApiAnswer.PREVIOUS_PAGE and route in self._last_bodies:
            return web.Response(body=self._last_bodies[route], content_type="application/json")
        if call is None or kind in (None, ApiAnswer.PREVIOUS_PAGE):
            return self._remembered(route, await true_answer())
        if kind is ApiAnswer.CUT_MIDWAY:
            return await _cut_midway(request, await true_answer())
        if kind is ApiAnswer.LOST:
            await true_answer()
            return cut(request)
        return cut(request) if kind is ApiAnswer.CUT else self._wrong(call)

    def _remembered(self, route: str, answer: web.StreamResponse) -> web.StreamResponse:
        if answer.status == 200 and isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            self._last_bodies[route] = answer.body
        return answer

    def _wrong(self, call: ScriptedCall) -> web.Response:
        if call.answer is ApiAnswer.EMPTY_LIST:
            return web.json_response(self._form.empty_list)
        if call.answer is ApiAnswer.HTML:
            return html_page(call.status, "We are down for maintenance")
        headers = {} if call.retry_after_s is None else {"Retry-After": str(call.retry_after_s)}
        body = self._form.error_body(_MESSAGES.get(call.status, "An error has occurred."))
        return web.json_response(body, status=call.status, headers=headers)


def is_cut(request: web.Request) -> bool:
    """Whether nobody can get an answer any more: the connection was ended, by us or by the caller."""
    return request.transport is None or request.transport.is_closing()


def cut(request: web.Request) -> web.Response:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)  # nobody gets it


async def _cut_midway(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    body = answer.body if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else b"[]"
    half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()  # after what was written
    return half
