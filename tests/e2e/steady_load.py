"""People at work at a pretend practice, and webhooks sent for it, for as long as a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from e2e.nothing_lost import Work, busy_days
from e2e.persistent_sender import PersistentSender
from eventsync.sandbox import RunningSandbox

_PAUSE_S = 0.05  # between days of some 13 webhooks, so some 200 a second


class Load:
    """What was done so far; complete once the block of `under_load` has been left."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.record_ids: set[str] = set()

    def work(self) -> Work:
        """Everything that people did."""
        return Work(tuple(self.bodies), frozenset(self.record_ids))

    async def go_on(self, sandbox: RunningSandbox, sender: PersistentSender, stop: asyncio.Event) -> None:
        """Work and send until `stop` is set, and return once every webhook was acknowledged."""
        while not stop.is_set():
            day = busy_days(sandbox, 1)
            self.bodies += day.bodies
            self.record_ids |= day.record_ids
            await sender.deliver(day.bodies)
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def under_load(sandbox: RunningSandbox, sender: PersistentSender) -> AsyncIterator[Load]:
    """Keep the practice busy around the block; afterwards all its webhooks were acknowledged."""
    load, stop = Load(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.go_on(sandbox, sender, stop))
        try:
            yield load
        finally:
            stop.set()
