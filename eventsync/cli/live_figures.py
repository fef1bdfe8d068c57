"""The figures that `eventsync up` shows, read out of a process's metrics and its queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.samples import Sample

from eventsync.domain.deliveries import ItemStatus, OutboundMeasure
from eventsync.domain.errors import EventsyncError
from eventsync.domain.events import WorkClass
from eventsync.postgres.outbound import OutboundQueue
from eventsync.postgres.registries import find_registry
from eventsync.telemetry import Metrics
from eventsync.vendors import registry_vendors
from eventsync.wiring.process import Process

_OUTBOUND_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at the flow. Counts are since the start of this process; latencies are in seconds, None without data."""

    received: int
    spooled: int
    finished: Mapping[str, int]
    parked: int
    in_flight: int
    to_be_read: int
    latency_p50_s: float | None
    latency_p99_s: float | None


@dataclass(frozen=True, slots=True)
class OutboundFigures:
    """One look at the outbound queue. What this process delivered is since its start, the rest as the rows say.

    `delivery_*` are from an item's creation to its being accepted. `paused_because` is None while nothing is halted.
    """

    waiting: int
    oldest_s: float | None
    failed: int
    delivered: int
    delivery_p50_s: float | None
    delivery_p99_s: float | None
    paused_at: datetime | None
    paused_because: str | None


class FlowWatch:
    """Looks at the events on their way; while PostgreSQL is away, the figures in memory still tell what comes in."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._in_flight = 0
        self._to_be_read = 0

    async def look(self) -> Figures:
        """Read the figures."""
        try:
            measured = await self._process.queue.measure()
            waiting = [row for row in measured if row.status != "parked"]
            self._in_flight = sum(row.count for row in waiting if row.work == WorkClass.APPLY)
            self._to_be_read = sum(row.count for row in waiting if row.work == WorkClass.REFETCH)
        except EventsyncError:
            pass
        return read_figures(self._process.metrics, self._in_flight, self._to_be_read)


class OutboundWatch:
    """Looks at the outbound queue's rows every two seconds, however often it is asked."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._queue = OutboundQueue(process.database)
        self._measured_at_s = float("-inf")
        self._measure = OutboundMeasure({}, None)
        self._has_registry = False

    async def look(self) -> OutboundFigures | None:
        """Read the figures; None where nothing is sent anywhere, nor wants to be."""
        if (now_s := asyncio.get_running_loop().time()) - self._measured_at_s >= _OUTBOUND_EVERY_S:
            self._measured_at_s = now_s
            try:
                self._measure = await self._queue.measure()
                self._has_registry = await self._is_connected()
            except EventsyncError:
                pass  # PostgreSQL is away: what was measured last is shown
        metrics, counts = self._process.metrics, self._measure.counts
        (attempts,) = metrics.outbound_attempts.collect()
        delivered = int(sum(sample.value for sample in _totals(attempts) if sample.labels["result"] == "accepted"))
        if not (self._has_registry or delivered or any(counts.values())):
            return None
        since = self._measure.waiting_since
        (delivery,) = metrics.outbound_delivery_seconds.collect()
        return OutboundFigures(
            waiting=counts.get(ItemStatus.PENDING, 0) + counts.get(ItemStatus.PROCESSING, 0),
            oldest_s=None if since is None else max((self._process.clock() - since).total_seconds(), 0.0),
            failed=counts.get(ItemStatus.FAILED, 0),
            delivered=delivered,
            delivery_p50_s=quantile(delivery, 0.5),
            delivery_p99_s=quantile(delivery, 0.99),
            paused_at=self._measure.paused_at,
            paused_because=self._measure.paused_reason,
        )

    async def _is_connected(self) -> bool:
        return await find_registry(self._process.database, registry_vendors(self._process.vendors)) is not None


def read_figures(metrics: Metrics, in_flight: int, to_be_read: int) -> Figures:
    """Read the figures out of a process's metrics."""
    families = {family.name: family for family in metrics.registry.collect()}
    finished: Counter[str] = Counter()
    for sample in _totals(families["eventsync_events_finished"]):
        finished[sample.labels["outcome"]] += int(sample.value)
    received = list(_totals(families["eventsync_events_received"]))
    latency = families["eventsync_webhook_to_row_seconds"]
    return Figures(
        received=int(sum(sample.value for sample in received)),
        spooled=int(sum(sample.value for sample in received if sample.labels["store"] != "postgres")),
        finished=finished,
        parked=int(sum(sample.value for sample in _totals(families["eventsync_events_parked"]))),
        in_flight=in_flight,
        to_be_read=to_be_read,
        latency_p50_s=quantile(latency, 0.5),
        latency_p99_s=quantile(latency, 0.99),
    )


def quantile(histogram: Metric, share: float) -> float | None:
    """Estimate a quantile from a histogram's buckets, evenly spread within each; None without observations."""
    buckets: dict[float, float] = {}
    for sample in histogram.samples:
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    wanted, lower, below = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            upper = bound if bound != float("inf") else lower
            return lower + (upper - lower) * (wanted - below) / (buckets[bound] - below)
        lower, below = bound, buckets[bound]
    return lower


def _totals(family: Metric) -> list[Sample]:
    return [sample for sample in family.samples if sample.name.endswith("_total")]
