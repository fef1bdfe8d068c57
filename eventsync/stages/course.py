"""A run's course: which lists it is to read, and how it went with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from eventsync.domain.call_plan import changes_plan, full_plan
from eventsync.domain.connections import Connection
from eventsync.domain.day_plan import plan_of_day
from eventsync.domain.reads import Covers, Knowledge, PlannedRead
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import Run, SyncType
from eventsync.domain.slicing import ReadingRules
from eventsync.domain.sync_settings import SyncSettings
from eventsync.postgres.coverage import Coverage
from eventsync.vendorkit.budget import BudgetSpent
from eventsync.vendorkit.http import RateLimited
from eventsync.vendorkit.vendor import RecordVendor

FETCH_FAILED = "Failed to fetch from PracticeQ"
_FIRST_INVOICES = timedelta(days=7)  # of a new connection: what changed before is older than its webhooks
OUT_OF_CALLS = (BudgetSpent, RateLimited)  # nothing is wrong: the run stops, and the next one goes on
_LEAST_OF_THE_DAY = 10  # a tenth is the daily run's, however little the plan leaves it
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


def rules_of(run: Run, connection: Connection, vendor: RecordVendor) -> ReadingRules:
    """Tell which days the run reads, its own before the connection's, and how the vendor's lists behave."""
    settings = SyncSettings.of(connection.settings)
    return ReadingRules(
        days_back=int(run.options.get("days_back", settings.days_back)),
        days_ahead=int(run.options.get("days_ahead", settings.days_ahead)),
        rows_per_page=vendor.listing_rules.rows_per_page,
        deletions_told_for=vendor.listing_rules.deletions_told_for,
    )


async def plan_lists(
    coverage: Coverage,
    connection: Connection,
    rules: ReadingRules,
    now: datetime,
    *,
    is_full: bool,
    with_near: bool = False,
) -> tuple[PlannedRead, ...]:
    """Choose a run's lists by what is known of its connection.

    `with_near` verifies today's and tomorrow's appointments beside what changed, where the day's calls allow it.
    """
    today = now.astimezone(ZoneInfo(connection.timezone)).date()
    knowledge = await coverage.knowledge(connection.id, now, rules.first_day(today), rules.last_day(today))
    if is_full:
        return (*full_plan(knowledge, today, now, rules), _changed_invoices(knowledge, now))
    day = plan_of_day(knowledge.size, connection.calls_per_day, today, rules=rules)
    return changes_plan(knowledge, today, now, spare_calls=day.near_check if with_near else 0, rules=rules)


async def daily_allowance(
    coverage: Coverage, connection: Connection, rules: ReadingRules, now: datetime
) -> tuple[int, int] | None:
    """Tell how many calls the scheduled daily run may make for lists of appointments and clients, and how many beside.

    None where reading everything fits into one day.

    A practice that does not fit is read over several days, so that sweeps, people and webhooks find calls on each.
    """
    today = now.astimezone(ZoneInfo(connection.timezone)).date()
    knowledge = await coverage.knowledge(connection.id, now, rules.first_day(today), rules.last_day(today))
    day = plan_of_day(knowledge.size, connection.calls_per_day, today, rules=rules)
    if day.days_to_verify_everything == 1 or day.calls_per_day is None:
        return None
    return max(day.daily_run, day.calls_per_day // _LEAST_OF_THE_DAY), day.beside_lists


def _changed_invoices(knowledge: Knowledge, now: datetime) -> PlannedRead:
    """Plan the list of invoices that changed: beside appointments and clients, the third that lists tell whole."""
    followed = knowledge.changed.get(RecordKind.INVOICE)
    since = now - _FIRST_INVOICES if followed is None else followed.covered_until
    return PlannedRead(kind=RecordKind.INVOICE, covers=Covers.CHANGES, since=since)


def told(planned: PlannedRead) -> str:
    """Name a list for people."""
    name = "clients" if planned.kind is RecordKind.PATIENT else f"{planned.kind.value}s"
    match planned.covers:
        case Covers.WINDOW:
            return f"{name} from {planned.first_day} to {planned.last_day}"
        case Covers.EVERYTHING:
            return f"all {name}"
        case Covers.CHANGES:
            return f"changed {name}"
        case Covers.DELETIONS:
            return f"deleted {name}"
