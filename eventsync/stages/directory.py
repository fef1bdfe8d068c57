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
        """Answer the connection. Raises Rejected where there is none (any more), Transient while PostgreSQL is away."""
        known = self._known.get(connection_id)
        if known is None:
            known = await self._load(connection_id)
            if known is None:
                raise Rejected("unknown_connection", "the event's connection does not exist any more")
            self._known[connection_id] = known
        return known

    async def run(self) -> None:
        """Forget what may have changed: at each notification, and each poll in case one was missed."""
        while True:
            await self._signal.wait(self._listener.poll_interval_s)
            self._known.clear()
