"""A process for a fault test: with any roles and settings, on any database and broker, always ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from e2e.eventsync_process import EventsyncProcess, environment
from eventsync.sandbox import QuotaLimits, SandboxOptions
from servers.ports import free_ports

PRACTICE = SandboxOptions(appointments=0, clients=100, quota=QuotaLimits(per_minute=None, per_day=None), seed=13)


def whole_process(
    folder: Path, database_url: str, amqp_url: str | None = None, *, settings: Mapping[str, str] | None = None
) -> EventsyncProcess:
    """Make, not yet start, a process with all roles."""
    return process_of(folder, database_url, amqp_url=amqp_url, settings=settings)


def process_of(
    folder: Path,
    database_url: str,
    *roles: str,
    amqp_url: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> EventsyncProcess:
    """Make, not yet start, a process whose data folder and log lie in `folder`; `settings` are added to its own."""
    folder.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    env = environment(folder / "data", database_url, amqp_url) | dict(settings or {})
    option = "--port" if not roles or {"ingress", "api"} & set(roles) else "--health-port"
    return EventsyncProcess(["run", *roles, option, str(port)], env, folder / "process.log", port)


@asynccontextmanager
async def running(process: EventsyncProcess) -> AsyncIterator[EventsyncProcess]:
    """Start the process for the block; whatever happens there, it has ended afterwards."""
    await process.start()
    try:
        yield process
    finally:
        await process.kill()
