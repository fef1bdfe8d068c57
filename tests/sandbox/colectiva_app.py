"""An app that registers its organizations at the pretend Colectiva, as the sandbox's own tests need it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from eventsync.sandbox import ColectivaVendor, PostBook, RunningSandbox, Sandbox, SandboxOptions, ScriptedCall, serve
from eventsync.sandbox.colectiva.organizations import Registration
from sandbox.sandbox_receiver import START_MS, Answer

ROUTE = "/ecosystem-orgs"


def body_of(number: int = 1, **changes: Any) -> dict[str, Any]:
    """What is sent of a practice."""
    return {
        "name": f"Test Practice {number}",
        "rfc": f"XAXX010101{number:03d}",
        "type": "business",
        "app_org_id": f"plenura_{number:032x}",
        "owner_email": f"owner{number}@example.test",
        "billing": {"plan": "free", "status": "active"},
    } | changes


@dataclass(slots=True)
class App:
    """Calls the API with its key, one connection a call, and the control API."""

    running: RunningSandbox
    session: aiohttp.ClientSession

    @property
    def sandbox(self) -> Sandbox:
        return self.running.sandbox

    @property
    def vendor(self) -> ColectivaVendor:
        assert isinstance(self.sandbox.vendor, ColectivaVendor)
        return self.sandbox.vendor

    @property
    def posts(self) -> PostBook:
        return self.vendor.posts

    def registration(self, number: int = 1) -> Registration:
        return self.vendor.organizations[f"plenura_{number:032x}"].registration

    def script(self, **call: Any) -> ScriptedCall:
        return self.sandbox.script.add(ScriptedCall(route=ROUTE, **call))

    async def post(self, body: Any, key: str | None = None, *, token: str | None = None) -> Answer:
        """Raises aiohttp.ClientError when the connection ends without an answer."""
        headers = {"Authorization": token or f"Bearer {self.running.api_key}", "Connection": "close"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.session.post(self.running.api_url + ROUTE, data=data, headers=headers) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def lose(self, body: Any, key: str | None = None) -> None:
        """Post, and get no answer."""
        try:
            answer = await self.post(body, key)
        except aiohttp.ClientConnectionError:
            return
        raise AssertionError(f"answered {answer.status}")

    async def organizations(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.running.api_key}"}
        async with self.session.get(self.running.api_url + ROUTE, headers=headers) as answer:
            assert answer.status == 200
            told: dict[str, Any] = orjson.loads(await answer.read())
            return told

    async def control(self, path: str, value: Any = None) -> Answer:
        method = "GET" if value is None else "POST"
        data = None if value is None else orjson.dumps(value)
        async with self.session.request(method, self.running.control_url + path, data=data) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def lines(self, path: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (await self.control(path)).text.splitlines()]


def marketplace(**changes: Any) -> SandboxOptions:
    values: dict[str, Any] = {"vendor": "colectiva", "start_ms": START_MS}
    return SandboxOptions(**(values | changes))


@asynccontextmanager
async def registering(options: SandboxOptions | None = None) -> AsyncIterator[App]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with serve(options or marketplace()) as running, aiohttp.ClientSession(timeout=timeout) as session:
        yield App(running, session)
