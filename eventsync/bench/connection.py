"""One keep-alive connection of the load generator: one request at a time, opened again when the server ends it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Protocol, cast

from eventsync.domain.errors import Transient

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_TRY_AGAIN_AFTER_S = 0.1


class LoadError(Transient):
    """The server cannot be loaded: nobody listens, or what answers is not understood."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer: its status and body."""

    status: int
    body: bytes


class Load(Protocol):
    """What a connection works for."""

    def ready(self, connection: Connection) -> None:
        """Take note of a free connection."""

    def answered(self, exchange: Exchange, index: int) -> None:
        """Take note of the answer to request `index`."""

    def lost(self, connection: Connection, index: int | None) -> None:
        """Take note of a connection that ended, and of the request that it leaves unanswered."""

    def gave_up(self, connection: Connection) -> None:
        """Take note of a connection that could not be opened again."""

    def fail(self, error: LoadError) -> None:
        """End the whole load."""


class Connection(asyncio.Protocol):
    """Sends what `load` gives it. `timeout_s` bounds the wait for an answer, and that for a new connection."""

    def __init__(self, host: str, port: int, timeout_s: float, load: Load) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._index: int | None = None  # of the request that waits for its answer
        self._sent_at = 0.0
        self._closing = False
        self._reopening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Raises OSError."""
        async with asyncio.timeout(self._timeout_s):
            await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)

    def send(self, index: int, head: bytes, body: bytes) -> None:
        """Send request `index`."""
        transport = self._transport
        assert transport is not None  # noqa: S101  # only a connection that is open says that it is ready
        self._index = index
        self._sent_at = time.perf_counter()
        transport.write(head + body)

    def end_if_silent(self, now: float) -> None:
        """Give the connection up if an answer is overdue."""
        if self._index is not None and now - self._sent_at > self._timeout_s and self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """End the connection and any attempt to open it again."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait([self._reopening])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: asyncio calls this."""
        self._transport = cast("asyncio.Transport", transport)  # TCP's
        self._received = b""
        self._load.ready(self)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer: asyncio calls this."""
        received = self._received + data if self._received else data
        head, separator, body = received.partition(b"\r\n\r\n")
        if not separator:
            self._received = received
            return
        status, length = _status(head), _LENGTH.search(head)
        if status is None or length is None:
            self._load.fail(LoadError(f"{self._host}:{self._port} does not answer in HTTP/1.1 with a Content-Length"))
        elif len(body) < int(length[1]):
            self._received = received
        else:
            self._received = b""
            self._answered(Exchange(status, body), is_last=_CLOSES.search(head) is not None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Open it again, unless this is the end: asyncio calls this."""
        self._transport = None
        index, self._index = self._index, None
        if self._closing:
            return
        self._load.lost(self, index)
        self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    def _answered(self, exchange: Exchange, *, is_last: bool) -> None:
        index, self._index = self._index, None
        if index is None:
            return  # an answer that nobody asked for
        self._load.answered(exchange, index)
        if is_last and self._transport is not None:
            self._transport.close()  # and then it is opened again
        else:
            self._load.ready(self)

    async def _reopen(self) -> None:
        give_up_at = time.perf_counter() + self._timeout_s
        while time.perf_counter() < give_up_at:
            try:
                await self.open()
            except OSError:  # a server that is just starting again
                await asyncio.sleep(_TRY_AGAIN_AFTER_S)
            else:
                return
        self._load.gave_up(self)


def _status(head: bytes) -> int | None:
    """Read the status line, such as `HTTP/1.1 200 OK`."""
    return int(head[9:12]) if head.startswith(b"HTTP/1.") and head[9:12].isdigit() else None
