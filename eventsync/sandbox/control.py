"""The control API under /_sandbox/: what no vendor has, for tests, demo and benchmarks.

All answers are JSON; a request that cannot be done gets 400 (badly put) or 409 (not now) with `{"error": …}`.
"""

from dataclasses import asdict

from aiohttp import web

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.control_script import ScriptControl
from eventsync.sandbox.control_wire import json_answer, json_lines, read_arguments, say_what_is_wrong, whole_query
from eventsync.sandbox.errors import BadArgumentError
from eventsync.sandbox.quota import QuotaLimits, QuotaWindow
from eventsync.sandbox.sandbox import Sandbox
from eventsync.sandbox.traffic import TrafficMix

PREFIX = "/_sandbox"
_DEFAULT_TIMEOUT_S = 120.0


def _mix(arguments: Arguments) -> TrafficMix:
    weights = arguments.mapping("weights") or {}
    if not all(isinstance(weight, int | float) for weight in weights.values()):
        raise BadArgumentError("weights must be numbers by action name")
    silent_share = arguments.number("silent_share")
    kinds = arguments.texts("kinds")
    return TrafficMix(
        silent_share=TrafficMix().silent_share if silent_share is None else silent_share,
        weights=weights,
        kinds=kinds,
    )


class ControlApi:
    """Handlers over one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def application(self) -> web.Application:
        """The application to mount under the prefix."""
        app = web.Application(middlewares=[say_what_is_wrong])
        app.router.add_get("/truth", self.truth)
        app.router.add_get("/stats", self.stats)
        app.router.add_post("/webhook-targets", self.webhook_targets)
        app.router.add_post("/faults", self.faults)
        app.router.add_post("/quota", self.quota)
        app.router.add_post("/traffic", self.traffic)
        app.router.add_post("/burst", self.burst)
        app.router.add_post("/actions", self.actions)
        app.router.add_post("/quiesce", self.quiesce)
        app.router.add_post("/clock", self.clock)
        app.router.add_get("/ledger", self.ledger)
        app.router.add_post("/ledger", self.clear_ledger)
        ScriptControl(self._sandbox).add_routes(app)
        self._sandbox.vendor.add_control_routes(app)
        return app

    async def truth(self, request: web.Request) -> web.StreamResponse:
        """JSON lines `{"kind","deleted","data"}`, one record each; `?kind=` limits them. One moment's copy."""
        facts = self._sandbox.truth(self._kind(request))
        return await json_lines(request, ({"kind": x.kind, "deleted": x.deleted, "data": x.data} for x in facts))

    def _kind(self, request: web.Request) -> str | None:
        kind, known = request.query.get("kind"), self._sandbox.vendor.truth_kinds
        if kind is not None and kind not in known:
            raise BadArgumentError(f"kind must be one of {', '.join(known)}")
        return kind

    async def stats(self, _request: web.Request) -> web.Response:
        """Counts, sizes, the time, and what is set."""
        sandbox = self._sandbox
        value = sandbox.stats.as_json() | {
            "vendor": sandbox.vendor.name,
            "now_ms": sandbox.clock.now_ms(),
            "unanswered": sandbox.sender.unanswered,
            "records": sandbox.vendor.counts(),
            "traffic_runs": sandbox.traffic_runs,
            "faults": asdict(sandbox.faults),
            "quota": asdict(sandbox.gate.quota.limits),
            "webhook_kinds_with_target": sorted(sandbox.sender.targets),
        }
        return json_answer(value)

    async def webhook_targets(self, request: web.Request) -> web.Response:
        """`{kind: url}`: replaces all targets."""
        arguments = await read_arguments(request)
        kinds = self._sandbox.vendor.webhook_kinds
        targets = {kind: url for kind in kinds if (url := arguments.text(kind)) is not None}
        arguments.finish()
        self._sandbox.set_targets(targets)
        return json_answer({"webhook_kinds_with_target": sorted(targets)})

    async def faults(self, request: web.Request) -> web.Response:
        """`{name: number}` changes these, the others stay; `{"reset": true}` first forgets all."""
        arguments = await read_arguments(request)
        start = type(self._sandbox.faults)() if arguments.flag("reset") else self._sandbox.faults
        values = {name: arguments.number(name) for name in asdict(start)}
        arguments.finish()
        self._sandbox.set_faults(start.changed({name: value for name, value in values.items() if value is not None}))
        return json_answer(asdict(self._sandbox.faults))

    async def quota(self, request: web.Request) -> web.Response:
        """`{per_minute, per_day, window, retry_after}`; 0 or less means no limit; left out, as the vendor has it."""
        arguments = await read_arguments(request)
        default = self._sandbox.default_quota
        minute, day = arguments.whole("per_minute"), arguments.whole("per_day")
        window = arguments.choice("window", tuple(QuotaWindow))
        retry_after = arguments.flag("retry_after")
        arguments.finish()
        limits = QuotaLimits(
            per_minute=_limit(minute, default.per_minute),
            per_day=_limit(day, default.per_day),
            window=default.window if window is None else QuotaWindow(window),
            retry_after=default.retry_after if retry_after is None else retry_after,
        )
        self._sandbox.set_quota(limits)
        return json_answer(asdict(limits))

    async def traffic(self, request: web.Request) -> web.Response:
        """`{rate_per_s, silent_share, weights, kinds}` starts anew; `rate_per_s` 0 stops."""
        arguments = await read_arguments(request)
        rate_per_s = arguments.number("rate_per_s")
        mix = _mix(arguments)
        arguments.finish()
        if rate_per_s is None or rate_per_s < 0:
            raise BadArgumentError("rate_per_s is needed: actions per real second, 0 to stop")
        if rate_per_s == 0:
            await self._sandbox.stop_traffic()
        else:
            await self._sandbox.start_traffic(rate_per_s, mix)
        return json_answer({"traffic_runs": self._sandbox.traffic_runs})

    async def burst(self, request: web.Request) -> web.Response:
        """`{webhooks, silent_share, weights, kinds, timeout_s}`; answers when all copies are done with.

        A burst has no silent edits unless they are asked for.
        """
        arguments = await read_arguments(request)
        webhooks = arguments.whole("webhooks")
        silent_share = arguments.number("silent_share") or 0.0
        mix = _mix(arguments)
        timeout_s = arguments.number("timeout_s") or _DEFAULT_TIMEOUT_S
        arguments.finish()
        if webhooks is None or webhooks < 1:
            raise BadArgumentError("webhooks is needed: how many to fire")
        mix = TrafficMix(silent_share=silent_share, weights=mix.weights, kinds=mix.kinds)
        result = await self._sandbox.burst(webhooks, mix, timeout_s)
        return json_answer(asdict(result) | {"stats": self._sandbox.stats.as_json()})

    async def actions(self, request: web.Request) -> web.Response:
        """`{action, …its arguments}`: one action now; what is left out is left to chance.

        With `lost` true its webhooks are lost on the way.
        """
        body = await read_arguments(request)
        name, is_lost = body.text("action"), body.flag("lost") is True
        if name is None:
            raise BadArgumentError(f"action is needed: one of {', '.join(self._sandbox.vendor.actions)}")
        effect = self._sandbox.traffic.act(name, body, is_lost=is_lost)
        return json_answer(
            {
                "record_id": effect.record_id,
                "record_ids": effect.record_ids or (effect.record_id,),
                "webhooks": [hook.event for hook in effect.webhooks],
            }
        )

    async def quiesce(self, request: web.Request) -> web.Response:
        """`{timeout_s}`: stop traffic, answer when nothing is on its way (`idle` false: it took too long)."""
        arguments = await read_arguments(request)
        timeout_s = arguments.number("timeout_s") or _DEFAULT_TIMEOUT_S
        arguments.finish()
        idle = await self._sandbox.quiesce(timeout_s)
        return json_answer({"idle": idle, "unanswered": self._sandbox.sender.unanswered})

    async def clock(self, request: web.Request) -> web.Response:
        """`{advance_ms}` lets so much time pass at once; without it, only tells the time."""
        arguments = await read_arguments(request)
        advance_ms = arguments.whole("advance_ms")
        arguments.finish()
        self._sandbox.clock.advance(advance_ms or 0)
        return json_answer({"now_ms": self._sandbox.clock.now_ms(), "speed": self._sandbox.clock.speed})

    async def ledger(self, request: web.Request) -> web.StreamResponse:
        """JSON lines, one change of one record each, as LedgerEntry tells them; `?since=` a number, `?kind=`."""
        since, kind = whole_query(request, "since"), self._kind(request)
        entries = self._sandbox.ledger.entries(since, kind)
        return await json_lines(request, (entry.as_json() for entry in entries))

    async def clear_ledger(self, request: web.Request) -> web.Response:
        """`{clear}` true forgets all changes so far; answers the number of the next one, for `since`."""
        arguments = await read_arguments(request)
        clear = arguments.flag("clear")
        arguments.finish()
        if clear:
            self._sandbox.ledger.clear()
        return json_answer({"next": self._sandbox.ledger.mark()})


def _limit(value: int | None, default: int | None) -> int | None:
    if value is None:
        return default
    return value if value > 0 else None
