"""What every peer does per job: our own mapping and write function, on one webhook's body, in a transaction.

That includes the news for other teams, whose NOTIFY lets commits pass one by one. Muted on trial, it gave FastStream 4
to 19% more: too little to let the function differ from ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from bench.practice import bench_keyring
from eventsync.domain.changes import Refetch
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.domain.webhooks import WebhookContext
from eventsync.postgres.database import Database
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

Apply = Callable[[bytes], Awaitable[None]]
"""Applies one webhook's body."""

_TRIES = 3  # as our own consumer: a deadlock is worth trying again at once


class Job:
    """Applies webhooks one at a time; any number of calls may run side by side."""

    def __init__(self, database: Database, connection_id: UUID) -> None:
        self._database = database
        self._read = load_vendors()["intakeq"].read_webhook
        self._context = WebhookContext(ConnectionId(connection_id))
        self._writer = RecordWriter(bench_keyring())

    async def apply(self, body: bytes) -> None:
        """Map the webhook and write its records. Raises Rejected or Transient."""
        reading = self._read(body, {}, self._context)
        changes = [EventChange(None, change) for change in reading.changes if not isinstance(change, Refetch)]
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._database.transaction() as session:
                    await self._writer.write(session, changes, utc_now())
            except Transient:
                if not tries_left:
                    raise
            else:
                return
