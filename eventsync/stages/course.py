"""What a run is to read, and how it went: what it left unread and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventsync.domain.connections import Connection
from eventsync.domain.reads import PlannedRead
from eventsync.domain.runs import Run, SyncType
from eventsync.domain.slicing import ReadingRules
from eventsync.domain.sync_settings import SyncSettings
from eventsync.vendorkit.vendor import Vendor

FETCH_FAILED = "Failed to fetch from PracticeQ"
_FULL = frozenset({SyncType.AUTOMATED_DAILY, SyncType.BACKFILL})


@dataclass(slots=True)
class Course:
    """How a run goes: what it left unread and why, what people should know, and what ended it early."""

    left: list[PlannedRead] = field(default_factory=list)
    failed: dict[PlannedRead, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stopped_because: str | None = None
    is_refused: bool = False  # the vendor does not know us any more
    lists_read: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether all that was planned has been read."""
        return not self.left and not self.failed and self.stopped_because is None


def is_full_run(run: Run) -> bool:
    """Whether the run reads everything, not only what changed."""
    return bool(run.options.get("mode", "full" if run.sync_type in _FULL else "changes") == "full")


def rules_of(run: Run, connection: Connection, vendor: Vendor) -> ReadingRules:
    """Tell which days the run reads, its own before the connection's, and how the vendor's lists behave."""
    settings = SyncSettings.of(connection.settings)
    return ReadingRules(
        days_back=int(run.options.get("days_back", settings.days_back)),
        days_ahead=int(run.options.get("days_ahead", settings.days_ahead)),
        rows_per_page=vendor.listing_rules.rows_per_page,
        deletions_told_for=vendor.listing_rules.deletions_told_for,
    )
