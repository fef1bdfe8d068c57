"""A TCP proxy before PostgreSQL or RabbitMQ that cuts, refuses, slows and holds back what passes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

_CHUNK_BYTES = 65536
_TURNS_UNTIL_HANDLED = 5  # of the event loop; it takes three
_DEFAULT_PORTS = {"amqp": 5672, "postgresql": 5432, "postgres": 5432, "http": 80}


class TcpProxy:
    """Listens on a port of its own on 127.0.0.1 and forwards to the server of `upstream_url`.

    `url` is the upstream's URL with the proxy's address in it. `delay_s` seconds are added to every
    chunk of bytes, in both directions.
    """

    def __init__(self, upstream_url: str) -> None:
        self.delay_s = 0.0
        self.accepted = 0
        self._upstream_url = upstream_url
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()

    @property
    def url(self) -> str:
        """The upstream's URL, by way of this proxy."""
        parts = urlsplit(self._upstream_url)
        credentials, at, _ = parts.netloc.rpartition("@")
        # A PostgreSQL URL names its socket's folder in the query; the proxy is reached by TCP.
        query = "" if _socket_path(self._upstream_url) else parts.query
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self._port}", query=query))

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._handlers)

    async def start(self) -> None:
        """Listen, and let everything pass."""
        self.resume()
        await self.accept()

    async def stop(self) -> None:
        """Stop listening and cut everything."""
        await self.refuse()
        self.cut()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def accept(self) -> None:
        """Take new connections (again), on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._handle, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._server is not None:
            server, self._server = self._server, None
            for listening in server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            # Who was let in just now is handled first: asyncio forgets to close it where the server has gone meanwhile.
            for _ in range(_TURNS_UNTIL_HANDLED):
                await asyncio.sleep(0)
            server.close()

    def cut(self) -> None:
        """Break off all open connections, without a word to either side."""
        for writer in list(self._open):
            writer.transport.abort()

    def hold(self) -> None:
        """Keep connections open, new ones too, and forward nothing: a half-open link."""
        self._requests_flow.clear()
        self._answers_flow.clear()

    def hold_answers(self) -> None:
        """Forward what clients send and keep back what the server answers: outcomes become unknown."""
        self._answers_flow.clear()

    def hold_requests(self) -> None:
        """Forward what the server sends and keep back what clients send: half-open the other way."""
        self._requests_flow.clear()

    def resume(self) -> None:
        """Forward again, beginning with what was held back."""
        self._requests_flow.set()
        self._answers_flow.set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.accepted += 1
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError):  # a broken link is what the proxy is for
                await self._forward(reader, writer)
        finally:
            writer.transport.abort()
            self._open.discard(writer)
            self._handlers.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await self._connect_upstream()
        self._open.add(up_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, self._requests_flow)),
            asyncio.create_task(self._pump(up_reader, writer, self._answers_flow)),
        ]
        try:
            # Where one side ends, so does the other.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            up_writer.transport.abort()
            self._open.discard(up_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await flow.wait()
            writer.write(chunk)
            await writer.drain()
        # What was written last must not be lost by the abort that follows.
        writer.close()
        await writer.wait_closed()

    async def _connect_upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = _socket_path(self._upstream_url)
        if path is not None:
            return await asyncio.open_unix_connection(path)
        parts = urlsplit(self._upstream_url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        return await asyncio.open_connection(parts.hostname or "127.0.0.1", port)


def _socket_path(url: str) -> str | None:
    """Return the Unix socket that a PostgreSQL URL names in its query, None for one that names a host."""
    query = parse_qs(urlsplit(url).query)
    if "host" not in query or not query["host"][0].startswith("/"):
        return None
    return str(Path(query["host"][0]) / f".s.PGSQL.{query.get('port', ['5432'])[0]}")
