"""One machine's door: the product's own receiver, spool and drain, whose process dies and whose database goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Transient
from eventsync.domain.events import EventId, IncomingEvent
from eventsync.postgres.database import Database, Session
from eventsync.postgres.listener import Listener
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.retention import Retention
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.spool.spool import Spool
from eventsync.stages.receive import Receiver, SpoolDrain
from eventsync.stages.verify import VerifierBook
from eventsync.telemetry import Metrics
from simulation.fate import Fate, FatedDatabase, Killed

_NEVER_S = 100.0  # a busy machine must not look like a database that hangs: what was not simulated did not happen


class Way(Database):
    """One machine's way to the database that all share; while it is cut, PostgreSQL is away for this machine alone."""

    def __init__(self, shared: FatedDatabase) -> None:
        super().__init__(shared.url)
        self.is_cut = False
        self._shared = shared

    @asynccontextmanager
    async def session(self, *, acquire_timeout_s: float = 5.0) -> AsyncIterator[Session]:
        """Borrow a connection. Raises Transient while the way is cut."""
        if self.is_cut:
            raise Transient("PostgreSQL is away")
        async with self._shared.session(acquire_timeout_s=acquire_timeout_s) as session:
            yield session


class FatedSpool(Spool):
    """The product's own spool on a real disk; the process may die just before or after it has written or removed."""

    def __init__(self, path: Path, keyring: Keyring, clock: Clock, fate: Fate) -> None:
        super().__init__(path, keyring, clock=clock)
        self._fate = fate

    async def put(self, events: Sequence[IncomingEvent]) -> None:
        """Store events, unless the process dies before."""
        self._fate.step()
        await super().put(events)
        self._fate.step()

    async def forget(self, ids: Sequence[EventId]) -> None:
        """Remove events, unless the process dies before."""
        self._fate.step()
        await super().forget(ids)
        self._fate.step()


class Door:
    """The stage behind one machine's door; `died` counts how often its process was killed."""

    def __init__(self, database: FatedDatabase, keyring: Keyring, path: Path, clock: Clock) -> None:
        self.clock = clock
        self.way = Way(database)
        self.died = 0
        self._fate = database.fate
        self._keyring = keyring
        self._path = path

    async def start(self) -> None:
        """Start its process, which finds what an earlier one has left in the spool."""
        metrics = Metrics()
        queue = EventQueue(self.way, self._keyring)
        self.spool = FatedSpool(self._path, self._keyring, self.clock, self._fate)
        await self.spool.open()
        book = VerifierBook(
            WebhookTokens(self.way, self._keyring), self.spool, Listener(self.way.url, metrics), self.clock
        )
        self._receiver = Receiver(queue, self.spool, metrics, self.clock, insert_timeout_s=_NEVER_S)
        self._drain = SpoolDrain(
            self._receiver,
            queue,
            Retention(self.way),
            self.spool,
            book,
            metrics,
            self.clock,
            insert_timeout_s=_NEVER_S,
        )

    async def close(self) -> None:
        """Let go of the spool's file."""
        await self.spool.close()

    async def receive(self, events: Sequence[IncomingEvent]) -> list[EventId]:
        """Take webhooks that arrive together; answer those that got their 200."""
        callers = [asyncio.create_task(self._receiver.receive(event)) for event in events]
        serving = asyncio.create_task(self._receiver.run())
        waiting = {*callers, serving}
        while serving in waiting and len(waiting) > 1:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        try:
            await serving
        except asyncio.CancelledError:
            pass
        except Killed:
            await self._rise_again()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        return [event.id for event, failure in zip(events, answers, strict=True) if failure is None]

    async def drain(self) -> bool:
        """Carry a group from the spool to PostgreSQL; tell whether there may be more."""
        try:
            return await self._drain.run_once()
        except Killed:
            await self._rise_again()
            return True

    async def _rise_again(self) -> None:
        self.died += 1
        self._fate.choose_nothing()
        await self.close()
        await self.start()
