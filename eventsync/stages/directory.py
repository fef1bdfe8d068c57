"""Which connection an event belongs to: opened once, kept in memory, read again when a person changes it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from eventsync.domain.connections import Connection, ConnectionId
from eventsync.domain.errors import Rejected
from eventsync.postgres.listener import Channel, Listener

LoadConnection = Callable[[ConnectionId], Coroutine[object, object, Connection | None]]


class ConnectionDirectory:
    """The connections that this process has met."""

    name = "connection-directory"

    def __init__(self, load: LoadConnection, listener: Listener) -> None:
        self._load = load
        self._listener = listener
        self._signal = listener.signal(Channel.CONFIGURATION)
        self._known: dict[ConnectionId, Connection] = {}

    async def get(self, connection_id: ConnectionId) -> Connection:
        """Answer the connection.

        Raises Rejected where there is none (any more) or a person has disabled it, Transient while PostgreSQL is away.
        """
        connection = self._known.get(connection_id) or await self._read(connection_id)
        if connection.disabled_at is not None:
            raise Rejected("connection_disabled", "the event's connection is disabled")
        return connection

    async def run(self) -> None:
        """Forget what may have changed: at each notification, and each poll in case one was missed."""
        while True:
            await self._signal.wait(self._listener.poll_interval_s)
            self._known = {}

    async def _read(self, connection_id: ConnectionId) -> Connection:
        known = self._known  # what is forgotten while we read stays forgotten: it may be what we have just read
        connection = await self._load(connection_id)
        if connection is None:
            raise Rejected("unknown_connection", "the event's connection does not exist any more")
        known[connection_id] = connection
        return connection
