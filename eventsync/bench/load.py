"""The load generator: posts webhooks over keep-alive HTTP/1.1 connections, as fast as answers come or at a fixed rate.

It shares the processors with what it measures, so it is lean: one asyncio.Protocol a connection, request heads made
beforehand, and of an answer only the status, the length and, after the clock has stopped, the event's id are read.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import orjson

from eventsync.bench.connection import Connection, Exchange, LoadError
from eventsync.bench.latencies import Latencies, latencies_of

HeaderLines = Callable[[bytes], bytes]
"""Writes further header lines for a body, each ended by CR LF: a signature, say."""

_LOOK_EVERY_S = 0.25
_CLOCK_TICK_S = 0.001  # what the event loop's timers can tell apart


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What became of the webhooks that were sent.

    `sent` = `accepted` (2xx) + `refused` (any other answer) + `unanswered` (the connection ended, or no answer came in
    time; these may have been stored all the same). `began_at_s` is the Unix time of the first send; `seconds` run from
    there to the last answer.
    `latencies` are of the accepted: from sending or, at a fixed rate, from when it was due to be sent.
    `event_ids` has one place for each body that was given: None where it was not accepted, or the answer named no
    `event_id`. `statuses` counts the refusals by status.
    """

    sent: int
    accepted: int
    refused: int
    unanswered: int
    began_at_s: float
    seconds: float
    latencies: Latencies
    event_ids: tuple[UUID | None, ...]
    statuses: dict[int, int]

    @property
    def events_per_s(self) -> float:
        """Accepted webhooks a second."""
        return self.accepted / self.seconds if self.seconds else 0.0


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int = 64,
    timeout_s: float = 30.0,
    header_lines: HeaderLines | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> LoadResult:
    """Post `bodies` to `url` (http only), each connection sending its next one when it was answered.

    A connection that ends is opened again; once that fails for `timeout_s`, what is left stays unsent.
    `on_progress` is told four times a second how many are over. Raises LoadError where nobody listens at first, or
    the answers carry no Content-Length.
    """
    run = _Run(_Target.of(url), bodies, header_lines, timeout_s)
    return await _carried_out(run, connections, None, on_progress)


async def open_loop(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate_per_s: float,
    connections: int = 64,
    timeout_s: float = 30.0,
    header_lines: HeaderLines | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> LoadResult:
    """Post `bodies` to `url`, `rate_per_s` of them, however slow the answers; else as `closed_loop`.

    Latencies count from the moment at which a webhook was due: one that had to wait for a free connection, since the
    others were slow, is not made to look fast (no "coordinated omission").
    """
    if rate_per_s <= 0:
        raise ValueError("rate_per_s must be above 0")
    run = _Run(_Target.of(url), bodies, header_lines, timeout_s)
    return await _carried_out(run, connections, rate_per_s, on_progress)


async def _carried_out(
    run: _Run, connections: int, rate_per_s: float | None, on_progress: Callable[[int], None] | None
) -> LoadResult:
    try:
        await run.open(connections)
        return await run.to_end(rate_per_s, on_progress)
    finally:
        await run.close()


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to post."""

    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def of(cls, url: str) -> _Target:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("the load generator posts to http://host[:port]/… only")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or 80, parts.netloc, path)


class _Run:
    """One load, from the first connection to the last answer. Connections call `ready` and `over`."""

    def __init__(
        self, target: _Target, bodies: Sequence[bytes], header_lines: HeaderLines | None, timeout_s: float
    ) -> None:
        self._target = target
        self._bodies = bodies
        self._heads = _heads(target, bodies, header_lines)
        self._timeout_s = timeout_s
        self._began: list[float] = [0.0] * len(bodies)  # when it was sent, or due
        self._answers: list[bytes | None] = [None] * len(bodies)  # the accepted ones'
        self._latencies_ms = array("d")
        self._statuses: dict[int, int] = {}
        self._due = 0  # so many may be sent by now, and
        self._sent = 0  # so many were
        self._over = 0
        self._is_closed_loop = True
        self._idle: list[Connection] = []
        self._connections: list[Connection] = []
        self._ended = asyncio.Event()
        self._last_answer = 0.0
        self._error: LoadError | None = None

    async def open(self, connections: int) -> None:
        """Open the connections. Raises LoadError."""
        place = self._target
        self._connections = [Connection(place.host, place.port, self._timeout_s, self) for _ in range(connections)]
        try:
            async with asyncio.TaskGroup() as opening:
                for connection in self._connections:
                    opening.create_task(connection.open())
        except ExceptionGroup as errors:
            if errors.split(OSError)[1] is not None:  # TimeoutError is an OSError
                raise
            raise LoadError(f"nobody answers at {place.host}:{place.port}: {errors.exceptions[0]}") from errors

    async def to_end(self, rate_per_s: float | None, on_progress: Callable[[int], None] | None) -> LoadResult:
        """Send everything and wait for the last answer."""
        if not self._bodies:
            self._ended.set()
        began_at_s, start = time.time(), time.perf_counter()
        self._last_answer = start
        async with asyncio.TaskGroup() as tasks:
            companions = [tasks.create_task(self._look_after(on_progress))]
            if rate_per_s is None:
                self._let_go(len(self._bodies))
            else:
                self._is_closed_loop = False
                companions.append(tasks.create_task(self._keep_the_rate(start, rate_per_s)))
            await self._ended.wait()
            for companion in companions:
                companion.cancel()
        if self._error is not None:
            raise self._error
        if on_progress is not None:
            on_progress(self._over)
        return self._result(began_at_s, self._last_answer - start)

    def ready(self, connection: Connection) -> None:
        """Give a free connection its next webhook, or let it wait."""
        if self._sent >= self._due:
            self._idle.append(connection)
            return
        index = self._sent
        self._sent += 1
        if self._is_closed_loop:
            self._began[index] = time.perf_counter()
        connection.send(index, self._heads[index], self._bodies[index])

    def answered(self, exchange: Exchange, index: int) -> None:
        """Note an answer."""
        self._last_answer = now = time.perf_counter()
        if 200 <= exchange.status < 300:
            self._latencies_ms.append((now - self._began[index]) * 1000)
            self._answers[index] = exchange.body
        else:
            self._statuses[exchange.status] = self._statuses.get(exchange.status, 0) + 1
        self._note_end()

    def lost(self, connection: Connection, index: int | None) -> None:
        """Note that a connection ended, and with it perhaps a webhook without an answer."""
        if index is not None:
            self._note_end()
        elif connection in self._idle:
            self._idle.remove(connection)

    def gave_up(self, connection: Connection) -> None:
        """Go on without a connection that could not be opened again; without any, end."""
        self._connections.remove(connection)
        if not self._connections:
            self._ended.set()

    def fail(self, error: LoadError) -> None:
        """End at once; the load raises `error`."""
        self._error = error
        self._ended.set()

    async def close(self) -> None:
        """End the connections."""
        for connection in self._connections:
            await connection.close()

    def _note_end(self) -> None:
        self._over += 1
        if self._over == len(self._bodies):
            self._ended.set()

    def _let_go(self, due: int) -> None:
        self._due = due
        idle, self._idle = self._idle, []
        for connection in idle:
            self.ready(connection)

    async def _keep_the_rate(self, start: float, rate_per_s: float) -> None:
        for index in range(len(self._bodies)):
            self._began[index] = start + index / rate_per_s
        while self._due < len(self._bodies):
            now = time.perf_counter()
            due = min(len(self._bodies), int((now - start) * rate_per_s) + 1)
            if due > self._due:
                self._let_go(due)
            await asyncio.sleep(max(_CLOCK_TICK_S, start + due / rate_per_s - now))

    async def _look_after(self, on_progress: Callable[[int], None] | None) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.perf_counter()
            for connection in list(self._connections):
                connection.end_if_silent(now)
            if on_progress is not None:
                on_progress(self._over)

    def _result(self, began_at_s: float, seconds: float) -> LoadResult:
        refused = sum(self._statuses.values())
        return LoadResult(
            sent=self._sent,
            accepted=len(self._latencies_ms),
            refused=refused,
            unanswered=self._sent - len(self._latencies_ms) - refused,
            began_at_s=began_at_s,
            seconds=seconds,
            latencies=latencies_of(self._latencies_ms),
            event_ids=tuple(map(_event_id, self._answers)),
            statuses=dict(sorted(self._statuses.items())),
        )


def _heads(target: _Target, bodies: Sequence[bytes], header_lines: HeaderLines | None) -> Sequence[bytes]:
    """Write the requests' heads; bodies of the same length share one, unless they have lines of their own."""
    start = f"POST {target.path} HTTP/1.1\r\nHost: {target.authority}\r\nContent-Type: application/json\r\n".encode()
    if header_lines is not None:
        return [start + header_lines(body) + b"Content-Length: %d\r\n\r\n" % len(body) for body in bodies]
    by_length = {length: start + b"Content-Length: %d\r\n\r\n" % length for length in {len(body) for body in bodies}}
    return [by_length[len(body)] for body in bodies]


def _event_id(answer: bytes | None) -> UUID | None:
    if not answer:
        return None
    try:
        body = orjson.loads(answer)
        return UUID(body["event_id"])
    except (ValueError, KeyError, TypeError):  # another server's answer: accepted, and without an id
        return None
