"""The pretend vendors beside a running process: a practice that keeps sending, a Colectiva to register at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from eventsync.postgres.tenants import Organization, Organizations
from eventsync.sandbox import SandboxOptions, serve
from eventsync.wiring.demo_colectiva import make_registrations, open_colectiva
from eventsync.wiring.demo_registrations import DemoRegistrations
from eventsync.wiring.demo_vendor import DemoVendor, connect, find_connection, sending_webhooks
from eventsync.wiring.process import Process

_PAYMENTS_PER_S = 0.05
_EXTERNAL_ID = "sandbox"
_PRACTICE = "intakeq"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The pretend vendors' ports (0: a free one), and how often something happens at the practice (0: never)."""

    port: int = 0
    colectiva_port: int = 0
    rate_per_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Demo:
    """The pretend practice; the pretend Colectiva, or None; and what a person should know of that."""

    options: DemoOptions
    practice: DemoVendor
    colectiva: DemoVendor | None
    notice: str | None


@asynccontextmanager
async def open_demo(process: Process, options: DemoOptions) -> AsyncIterator[Demo]:
    """Run the pretend vendors, connected; their data is kept in the data folder.

    They are there before the process runs, and still when it has ended: what it sends must meet the vendor that it is
    for, and not whatever took that port since the last time.
    """
    owner = await _owner(process)
    state_path = process.options.settings.data_dir / "sandbox-intakeq.json"
    practice = SandboxOptions(vendor=_PRACTICE, port=options.port, state_path=state_path)
    async with serve(practice) as running:
        # The practice first: on a new database its connection is number 1, as the README's examples have it.
        known = await find_connection(process, owner, _PRACTICE)
        connected = await connect(process, owner, known, running)
        async with open_colectiva(process, owner, port=options.colectiva_port) as colectiva:
            yield Demo(options, connected, colectiva.vendor, colectiva.notice)


@asynccontextmanager
async def keep_busy(process: Process, demo: Demo, base_url: str) -> AsyncIterator[None]:
    """Let things happen at the vendors and in our own tables; the vendors' webhooks go to `base_url`."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await enter(sending_webhooks(process, demo.practice, base_url, rate_per_s=demo.options.rate_per_s))
        if demo.colectiva is not None:
            await enter(sending_webhooks(process, demo.colectiva, base_url, rate_per_s=_PAYMENTS_PER_S))
            await enter(_inventing(make_registrations(process, demo.colectiva.connection_id)))
        yield


@asynccontextmanager
async def _inventing(registrations: DemoRegistrations) -> AsyncIterator[None]:
    inventing = asyncio.create_task(registrations.run(), name="demo registrations")
    try:
        yield
    finally:
        inventing.cancel()
        await asyncio.wait({inventing})
        if not inventing.cancelled():
            inventing.result()  # raises what ended it early


async def _owner(process: Process) -> Organization:
    organizations = Organizations(process.database)
    found = await organizations.find(_EXTERNAL_ID)
    return found or await organizations.add("Sandbox Practice", _EXTERNAL_ID, process.clock())
