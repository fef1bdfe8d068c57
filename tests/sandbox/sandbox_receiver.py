"""A webhook receiver of the tests' own, and the calls that most sandbox tests make."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from eventsync.sandbox import QuotaLimits, RunningSandbox, SandboxOptions, serve

KINDS = ("appointment", "intake", "note", "invoice")
START_MS = 1_790_000_000_000  # September 2026
NO_QUOTA = QuotaLimits(per_minute=None, per_day=None)


@dataclass(slots=True)
class Received:
    """One POST as it came in."""

    kind: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = orjson.loads(self.raw)
        return value


@dataclass(slots=True)
class Receiver:
    """Keeps what it is sent and answers with `status`, once `answering` is set."""

    base_url: str = ""
    status: int = 200
    posts: list[Received] = field(default_factory=list)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def targets(self) -> dict[str, str]:
        return {kind: f"{self.base_url}/{kind}" for kind in KINDS}

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.posts.append(Received(request.match_info["kind"], dict(request.headers), raw))
        self._came.set()
        await self.answering.wait()
        return web.json_response({"status": "accepted"}, status=self.status)

    async def wait_for(self, count: int) -> list[Received]:
        async with asyncio.timeout(20):
            while len(self.posts) < count:
                self._came.clear()
                await self._came.wait()
        return self.posts

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [post.body for post in self.posts if post.kind == kind]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.answering.set()
    app = web.Application()
    app.router.add_post("/{kind}", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.answering.set()
        await runner.cleanup()


def small(**changes: Any) -> SandboxOptions:
    """A little practice at a fixed time."""
    values: dict[str, Any] = {"clients": 30, "appointments": 120, "start_ms": START_MS, "quota": NO_QUOTA}
    return SandboxOptions(**(values | changes))


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)


@dataclass(slots=True)
class Caller:
    """Calls one sandbox's API with its key, and its control API."""

    running: RunningSandbox
    session: aiohttp.ClientSession

    async def api(self, path: str, key: str | None = None, method: str = "GET") -> Answer:
        headers = {"X-Auth-Key": self.running.api_key if key is None else key}
        async with self.session.request(method, self.running.api_url + path, headers=headers) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def pages(self, path: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        page = 1
        while True:
            mark = "&" if "?" in path else "?"
            got = (await self.api(f"{path}{mark}page={page}")).json
            rows += got
            if len(got) < 100:
                return rows
            page += 1

    async def control(self, path: str, value: Any = None) -> Answer:
        method = "GET" if value is None else "POST"
        data = None if value is None else orjson.dumps(value)
        async with self.session.request(method, self.running.control_url + path, data=data) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def truth(self, kind: str) -> dict[str, dict[str, Any]]:
        """Facts by id."""
        lines = (await self.control(f"/truth?kind={kind}")).text.splitlines()
        facts = [orjson.loads(line) for line in lines]
        return {str(fact["data"].get("Id", fact["data"].get("ClientId"))): fact for fact in facts}


@asynccontextmanager
async def calling(options: SandboxOptions) -> AsyncIterator[Caller]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with serve(options) as running, aiohttp.ClientSession(timeout=timeout) as session:
        yield Caller(running, session)
