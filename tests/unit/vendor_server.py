"""A vendor of a test's own on loopback, whose answers the test writes, and a budget that notes what was spent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from eventsync.domain.errors import Transient
from eventsync.vendorkit.budget import Purpose, ReservationId

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class NotingBudget:
    """Grants `allowed` calls, and notes each step in its order."""

    allowed: int = 1_000
    log: list[str] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """How many calls were reserved."""
        return len([step for step in self.log if step.startswith("reserve")])

    async def reserve(self, purpose: Purpose) -> ReservationId:
        if self.spent >= self.allowed:
            raise Transient("The budget is spent.", retry_after_s=12.0)
        self.log.append(f"reserve {purpose.value}")
        return ReservationId(self.spent)

    async def finish(self, reservation: ReservationId) -> None:
        self.log.append(f"finish {reservation}")

    async def refused(self, retry_after_s: float) -> None:
        self.log.append("refused")
        self.refused_s.append(retry_after_s)


@asynccontextmanager
async def vendor_server(answer: Answer) -> AsyncIterator[str]:
    """Serve `answer` for every path; yields the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
