"""The age of truth in the management API: how long ago an organization's records were last known to be true."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eventsync.domain.clock import Clock
from eventsync.postgres.freshness import Freshness, FreshnessRow
from eventsync.web.api_calls import Call, Endpoint


@dataclass(frozen=True, slots=True)
class FreshnessReport:
    """The age of truth at `measured_at`, by organization and kind. Organizations without a record have no item."""

    measured_at: datetime
    items: tuple[FreshnessRow, ...]


class FreshnessApi:
    """The endpoint."""

    def __init__(self, freshness: Freshness, clock: Clock) -> None:
        self._freshness = freshness
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoint."""
        return (Endpoint("GET", "/api/v1/freshness", self.report, FreshnessReport, "Show the age of truth"),)

    async def report(self, call: Call) -> FreshnessReport:
        """Measure what the organization owns."""
        now = self._clock()
        return FreshnessReport(now, tuple(await self._freshness.report(call.caller.organization_id, now)))
