"""Hears NOTIFY and wakes whoever waits; losing it costs latency, never an event, since everyone polls as well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum

import asyncpg
import structlog

from eventsync.domain.errors import EventsyncError, Transient
from eventsync.postgres.database import translated_errors
from eventsync.telemetry import Metrics

_PROBE_CHANNEL = "eventsync_probe"
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_log = structlog.get_logger(__name__)


class Channel(StrEnum):
    """What PostgreSQL tells us about."""

    QUEUE = "eventsync_queue"
    CONFIGURATION = "eventsync_configuration"
    RUNS = "eventsync_runs"
    OUTBOUND = "eventsync_outbound"


class Signal:
    """One waiter's bell: remembers a ring that came while nobody waited."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the waiter, now or when it next waits."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a ring; False where `timeout_s` seconds went by without one."""
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._event.clear()
        return True


class Listener:
    """A direct connection of its own that LISTENs first and then lets everyone scan.

    A loopback probe at the start and every `probe_interval_s` proves that notifications really arrive: behind a
    transaction pooler they silently do not.
    """

    name = "listener"

    def __init__(
        self, url: str, metrics: Metrics, *, probe_interval_s: float = 15.0, probe_timeout_s: float = 3.0
    ) -> None:
        self._url = url
        self._metrics = metrics
        self._probe_interval_s = probe_interval_s
        self._probe_timeout_s = probe_timeout_s
        self._signals: dict[Channel, list[Signal]] = {channel: [] for channel in Channel}
        self._probe_heard = asyncio.Event()
        self.proven = asyncio.Event()
        self.reason = "not connected yet"

    @property
    def is_proven(self) -> bool:
        """Whether the last loopback probe came back."""
        return self.proven.is_set()

    @property
    def poll_interval_s(self) -> float:
        """How long a waiter may rely on being woken: a second until the listener is proven, then fifteen."""
        return 15.0 if self.is_proven else 1.0

    def signal(self, channel: Channel) -> Signal:
        """Make a bell of one's own that rings at every notification of `channel`, and after every reconnect."""
        signal = Signal()
        self._signals[channel].append(signal)
        return signal

    async def run(self) -> None:
        """Listen for ever; connect again, with growing pauses, whenever the connection is lost or goes deaf."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._listen()
            except EventsyncError as error:
                pause_s = _FIRST_PAUSE_S if self.is_proven else min(2 * pause_s, _LONGEST_PAUSE_S)
                self._lost(str(error))
            await asyncio.sleep(pause_s)

    async def _listen(self) -> None:
        with translated_errors():
            connection = await asyncpg.connect(self._url, timeout=5.0, command_timeout=5.0)
        try:
            with translated_errors():
                closed = asyncio.Event()
                connection.add_termination_listener(lambda _: closed.set())
                for channel in (*Channel, _PROBE_CHANNEL):
                    await connection.add_listener(channel, self._heard)
            self._ring(list(Channel))
            while True:
                await self._probe(connection)
                await self._rest(closed)
        finally:
            connection.terminate()

    async def _rest(self, closed: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._probe_interval_s):
                await closed.wait()
        except TimeoutError:
            return
        raise Transient("PostgreSQL closed the listening connection")

    async def _probe(self, connection: asyncpg.Connection) -> None:
        self._probe_heard.clear()
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                with translated_errors():
                    await connection.execute("SELECT pg_notify($1, '')", _PROBE_CHANNEL)
                await self._probe_heard.wait()
        except TimeoutError:
            raise Transient(
                "LISTEN hears nothing: EVENTSYNC_LISTEN_DATABASE_URL must lead to PostgreSQL directly, not to a pooler"
            ) from None
        if not self.is_proven:
            _log.info("listener_proven")
        self.proven.set()
        self.reason = ""
        self._metrics.listener_proven.set(1)

    def _heard(self, _connection: object, _process_id: int, channel: str, _payload: str) -> None:
        if channel == _PROBE_CHANNEL:
            self._probe_heard.set()
        else:
            self._metrics.notifications.labels(channel=channel).inc()
            self._ring([Channel(channel)])

    def _ring(self, channels: Sequence[Channel]) -> None:
        for channel in channels:
            for signal in self._signals[channel]:
                signal.ring()

    def _lost(self, reason: str) -> None:
        if self.is_proven:
            _log.warning("listener_lost", error=reason)
        self.proven.clear()
        self.reason = reason
        self._metrics.listener_proven.set(0)
        self._ring(list(Channel))
