"""The control API's part for bad days: the script of API calls to come, and the API key."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.control_wire import json_answer, read_arguments
from eventsync.sandbox.errors import BadArgumentError
from eventsync.sandbox.sandbox import Sandbox
from eventsync.sandbox.script import ApiAnswer, Hook, ScriptedCall


class ScriptControl:
    """Handlers over one sandbox's script."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def add_routes(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/script", self.script)
        app.router.add_post("/script", self.add)
        app.router.add_post("/api-key", self.api_key)

    async def script(self, _request: web.Request) -> web.Response:
        """What is still to come."""
        return self._pending()

    async def add(self, request: web.Request) -> web.Response:
        """One scripted call more: `{route, method, call, times, query, answer, status, retry_after_s, before, after}`.

        Members mean what ScriptedCall's do; `times` 0 is from then on, `before` and `after` are an action with its
        arguments (`{"action": "delete"}`). `{"clear": true}` first empties the script, and may come alone.
        """
        arguments = await read_arguments(request)
        clear, route = arguments.flag("clear"), arguments.text("route")
        call = None if clear and route is None else self._call(route, arguments)
        arguments.finish()
        if clear:
            self._sandbox.script.clear()
        if call is not None:
            self._sandbox.script.add(call)
        return self._pending()

    async def api_key(self, request: web.Request) -> web.Response:
        """`{api_key}`: the only key from now on."""
        arguments = await read_arguments(request)
        api_key = arguments.text("api_key")
        arguments.finish()
        self._sandbox.set_api_key(api_key or "")
        return json_answer({})

    def _call(self, route: str | None, arguments: Arguments) -> ScriptedCall:
        if route is None:
            raise BadArgumentError('route is needed, such as "/appointments", or "*" for any')
        call, times, status = arguments.whole("call"), arguments.whole("times"), arguments.whole("status")
        answer = arguments.choice("answer", tuple(ApiAnswer))
        return ScriptedCall(
            route=route,
            method=arguments.text("method"),
            call=1 if call is None else call,
            times=1 if times is None else times or None,
            query=_query(arguments.mapping("query") or {}),
            answer=None if answer is None else ApiAnswer(answer),
            status=500 if status is None else status,
            retry_after_s=arguments.whole("retry_after_s"),
            before=self._hook(arguments.mapping("before")),
            after=self._hook(arguments.mapping("after")),
        )

    def _hook(self, value: Mapping[str, Any] | None) -> Hook | None:
        if value is None:
            return None
        name = Arguments(value).text("action")
        known = self._sandbox.vendor.actions
        if name is None or name not in known:
            raise BadArgumentError(f"before and after need an action, one of {', '.join(known)}")
        rest = {key: member for key, member in value.items() if key != "action"}

        async def act() -> None:
            self._sandbox.act(name, **rest)

        return act

    def _pending(self) -> web.Response:
        return json_answer({"pending": [_told(call) for call in self._sandbox.script.pending]})


def _query(values: Mapping[str, Any]) -> dict[str, str | None]:
    if not all(value is None or isinstance(value, str) for value in values.values()):
        raise BadArgumentError("query must give each parameter as text, or null where it must be absent")
    return dict(values)


def _told(call: ScriptedCall) -> dict[str, Any]:
    return {
        "route": call.route,
        "method": call.method,
        "call": call.call,
        "times": call.times,
        "query": dict(call.query),
        "answer": call.answer,
        "status": call.status,
        "acts": call.before is not None or call.after is not None,
    }
