"""Notices a webhook that has gone silent: nothing comes from a practice although sweeps see that it changed.

Stands behind the sweep: looks at what drift tells of webhooks, after a run or as a chore, warns, and keeps the gauges.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from eventsync.domain.connections import ConnectionId
from eventsync.domain.drift import WebhookSigns
from eventsync.postgres.drift import DriftFilter, DriftReport
from eventsync.telemetry import Metrics

_log = structlog.get_logger(__name__)

_LOOK_BACK = timedelta(days=1)
_ON_ITS_WAY = timedelta(minutes=5)  # a change so young is not missed yet (the longest way seen at IntakeQ: 204 s)
_BETWEEN_WARNINGS = timedelta(hours=1)
_ADVICE = (
    "check that this connection's webhook URL (`eventsync connections reveal`) still stands at the vendor;"
    " IntakeQ: More > Settings > Integrations > Developer API"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """When silence is suspicious: for so many hours, while so many changes that the vendor tells of had to be found."""

    silent_hours: float = 3.0
    missed_changes: int = 3


@dataclass(frozen=True, slots=True)
class Silence:
    """A connection whose webhook should have spoken.

    `since` is when it was heard last, None where that is longer ago than one looked; then it has been silent at least
    for `lasted`.
    """

    connection_id: ConnectionId
    connection: int
    since: datetime | None
    lasted: timedelta
    missed_changes: int


def silence_of(signs: WebhookSigns, looked_from: datetime, now: datetime, patience: Patience) -> Silence | None:
    """Judge a connection by what was seen of it since `looked_from`; None where its webhook is as it should be."""
    lasted = now - (signs.last_received_at or looked_from)
    if lasted < timedelta(hours=patience.silent_hours) or signs.missed_changes < patience.missed_changes:
        return None
    return Silence(signs.connection_id, signs.connection, signs.last_received_at, lasted, signs.missed_changes)


class SilenceWatch:
    """Looks whether webhooks still come; what it warned of is remembered by this process only."""

    def __init__(self, report: DriftReport, metrics: Metrics, patience: Patience | None = None) -> None:
        self._report = report
        self._metrics = metrics
        self._patience = patience or Patience()
        self._silent: set[ConnectionId] = set()
        self._warned_at: dict[ConnectionId, datetime] = {}

    async def look(self, now: datetime, connection_id: ConnectionId | None = None) -> list[Silence]:
        """Tell which connections (or whether this one) should have been heard. Sets their gauge; warns at first sight.

        A silence is warned of once, and a connection once an hour at most. Raises Transient.
        """
        looked_from = now - _LOOK_BACK
        found = await self._report.signs_of_silence(
            looked_from, now - _ON_ITS_WAY, least_missed=self._patience.missed_changes, connection_id=connection_id
        )
        if connection_id is None:
            self._metrics.webhook_silent_seconds.clear()  # of connections that were disabled
        silences = []
        for signs in found:
            silence = silence_of(signs, looked_from, now, self._patience)
            lasted_s = 0.0 if silence is None else silence.lasted.total_seconds()
            self._metrics.webhook_silent_seconds.labels(connection=str(signs.connection)).set(lasted_s)
            if silence is None:
                self._silent.discard(signs.connection_id)
            else:
                silences.append(silence)
                self._warn(silence, now)
        return silences

    async def measure_drift(self, now: datetime) -> None:
        """Set the gauge of what was found wrong within a day. Raises Transient."""
        summary = await self._report.summary(DriftFilter(since=now - timedelta(days=1)), now)
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for row in summary.counts:
            counts[row.expected_event or "none", row.verdict.value] += row.count
        self._metrics.drift_last_day.clear()
        for (expected_event, verdict), count in counts.items():
            self._metrics.drift_last_day.labels(expected_event=expected_event, verdict=verdict).set(count)

    async def run_once(self, now: datetime) -> None:
        """Do both for all connections, as a chore does."""
        await self.look(now)
        await self.measure_drift(now)

    def _warn(self, silence: Silence, now: datetime) -> None:
        warned_at = self._warned_at.get(silence.connection_id)
        if silence.connection_id in self._silent or (warned_at is not None and now - warned_at < _BETWEEN_WARNINGS):
            return
        self._silent.add(silence.connection_id)
        self._warned_at[silence.connection_id] = now
        _log.warning(
            "webhook_silent",
            connection=silence.connection,
            silent_hours=round(silence.lasted / timedelta(hours=1), 1),
            missed_changes=silence.missed_changes,
            advice=_ADVICE,
        )
