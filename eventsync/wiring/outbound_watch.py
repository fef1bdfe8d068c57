"""What a process tells of the outbound queue, whether it works it off or not: its readiness and its figures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from eventsync.domain.clock import Clock
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import OutboundQueue
from eventsync.postgres.registries import find_registry
from eventsync.telemetry import Metrics
from eventsync.web.health import Part

_REGISTRIES = ("colectiva",)  # by name: not every role that tells of the queue loads the vendors
_TOO_OLD = timedelta(minutes=15)


class OutboundWatch:
    """Looks at the queue. `trouble` is what this process's own deliverer says of itself, where it has one."""

    def __init__(
        self, database: Database, metrics: Metrics, clock: Clock, *, trouble: Callable[[], str] = lambda: ""
    ) -> None:
        self._database = database
        self._queue = OutboundQueue(database)
        self._metrics = metrics
        self._clock = clock
        self._trouble = trouble

    def part(self) -> Part:
        """What waits is delivered, or a person is told what keeps it: nothing of that concerns the process's rest."""
        return Part("outbound", self.shortage, blocks=False)

    async def shortage(self) -> str:
        """Say what keeps items waiting; an empty text where nothing does. Raises Transient."""
        measure = await self._queue.measure()
        since, now = measure.waiting_since, self._clock()
        if since is not None and await find_registry(self._database, _REGISTRIES) is None:
            return "no connection to Colectiva: eventsync connections add colectiva …, or COLECTIVA_API_KEY"
        if measure.paused_at is not None:
            return f"paused since {measure.paused_at:%Y-%m-%d %H:%M} UTC: {measure.paused_reason}"
        if since is not None and now - since > _TOO_OLD:
            age_s = int((now - since).total_seconds())
            return f"the oldest unfinished item is {age_s} s old: is a worker running, does Colectiva answer?"
        return self._trouble()

    async def refresh(self) -> None:
        """Bring the figures up to date. Raises Transient."""
        measure = await self._queue.measure()
        for status, count in measure.counts.items():
            self._metrics.outbound_items.labels(status=status.value).set(count)
        since = measure.waiting_since
        age_s = 0.0 if since is None else max((self._clock() - since).total_seconds(), 0.0)
        self._metrics.outbound_oldest_seconds.set(age_s)
        self._metrics.outbound_paused.set(measure.paused_at is not None)
