"""A practice whose webhooks are delivered, lost, late or parked as a test says, and sweeps that find what is wrong."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from eventsync.crypto import Keyring
from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.drift import DriftFinding, ReportedDrift, finding_of
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Outcome, new_event_id
from eventsync.domain.records import Appointment, AppointmentStatus, RecordKind, content_hash
from eventsync.domain.runs import RunId
from eventsync.postgres.database import Database
from eventsync.postgres.drift import DriftFilter, DriftReport, record_findings
from eventsync.postgres.queue import EventQueue, finish, hand_to_refetch
from eventsync.postgres.queue_values import Finished, Parked, RefetchWork
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.vendors.intakeq import VENDOR

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOW = datetime.now(UTC).replace(microsecond=0)
SWEEP = NOW - HOUR  # when the read of the page began
STARTS = NOW.replace(hour=9, minute=0, second=0) + timedelta(days=3)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Change:
    """The practice's appointment `name` as it was from `at` on; `told_by` is None for an edit without a webhook."""

    name: str
    at: datetime
    told_by: str | None = "AppointmentRescheduled"
    start: datetime = STARTS
    price: int = 100
    status: str = "Confirmed"
    deleted: bool = False

    @property
    def position(self) -> int:
        """Its place in the order of versions, Unix milliseconds."""
        return (self.at - _EPOCH) // timedelta(milliseconds=1)


@dataclass(slots=True)
class Drifting:
    """One connection, whose webhooks and sweeps are applied as the stages do, at times that the test chooses."""

    pool: Database
    keyring: Keyring
    connection_id: ConnectionId
    events: list[EventId] = field(default_factory=list)

    @property
    def queue(self) -> EventQueue:
        """The queue of events."""
        return EventQueue(self.pool, self.keyring)

    @property
    def report(self) -> DriftReport:
        """The report."""
        return DriftReport(self.pool)

    def ref(self, name: str) -> EntityRef:
        """Name an appointment."""
        return EntityRef(self.connection_id, RecordKind.APPOINTMENT, name)

    async def receive(self, at: datetime) -> EventId:
        """Store a webhook that nobody has read yet."""
        event_id = new_event_id(at, secrets.token_bytes(10))
        event = IncomingEvent(event_id, self.connection_id, "intakeq", EventSource.WEBHOOK, (), b"{}")
        await self.queue.store([event])
        self.events.append(event_id)
        return event_id

    async def webhook(
        self, change: Change, after: timedelta = 5 * SECOND, *, read_after: timedelta = SECOND
    ) -> EventId:
        """Receive the webhook of a change, and apply it."""
        event_id = await self.receive(change.at + after)
        await self.apply(event_id, change, change.at + after + read_after)
        return event_id

    async def apply(self, event_id: EventId, change: Change, at: datetime) -> Outcome:
        """Bring an event that told of a change to its end."""
        async with self.pool.transaction() as session:
            written = [EventChange(event_id, self._said(change, Source.WEBHOOK))]
            (merged,) = await RecordWriter(self.keyring).write(session, written, at)
            end = Finished(
                event_id, merged.outcome, change.told_by, "appointment", change.name, change.position,
                changed_fields=merged.changed_fields,
            )  # fmt: skip
            await finish(session, [end], at)
        return merged.outcome

    async def parked(self, change: Change, after: timedelta = 5 * SECOND) -> EventId:
        """Receive the webhook of a change, and set it aside knowing which record it names."""
        event_id = await self.waiting(change, after)
        await self.queue.park([Parked(event_id, "attempts_used_up")])
        return event_id

    async def waiting(self, change: Change, after: timedelta = 5 * SECOND) -> EventId:
        """Receive the webhook of a change, which then waits to be read from the vendor."""
        event_id = await self.receive(change.at + after)
        work = RefetchWork(event_id, change.told_by or "", "appointment", change.name)
        async with self.pool.transaction() as session:
            await hand_to_refetch(session, [work], change.at + after)
        return event_id

    async def sweep(self, *changes: Change, began: datetime = SWEEP, run_id: RunId | None = None) -> list[DriftFinding]:
        """Read a page with these appointments, a minute after the read began, and record what was wrong."""
        return await self.read([self._said(change, Source.API, began) for change in changes], began, run_id)

    async def miss(self, name: str, began: datetime = SWEEP) -> list[DriftFinding]:
        """Read a complete list that lacks an appointment."""
        window = NOW - timedelta(days=90), NOW + timedelta(days=90)
        return await self.read([Absence(self.ref(name), _ms(began), *window)], began, None)

    async def read(self, said: list[RecordChange], began: datetime, run_id: RunId | None) -> list[DriftFinding]:
        """Write what a page says, and what was wrong."""
        found_at = began + MINUTE
        async with self.pool.transaction() as session:
            written = [EventChange(None, change) for change in said]
            results = await RecordWriter(self.keyring).write(session, written, found_at)
            found = [
                finding
                for change, merged in zip(said, results, strict=True)
                if (
                    finding := finding_of(VENDOR, change, merged, run_id=run_id, read_began_at=began, found_at=found_at)
                )
            ]
            await record_findings(session, found)
        return found

    async def verdicts(self, now: datetime = NOW) -> dict[str, str]:
        """Tell the verdict on each appointment that was found wrong."""
        return {found.external_id: found.verdict.value for found in await self.found(now)}

    async def found(self, now: datetime = NOW) -> list[ReportedDrift]:
        """Report all findings."""
        return await self.report.findings(DriftFilter(), now, limit=10_000)

    def _said(self, change: Change, source: Source, began: datetime | None = None) -> Upsert | Delete:
        status = AppointmentStatus.CANCELLED if change.status == "Canceled" else AppointmentStatus.CONFIRMED
        content = Appointment(
            status, change.status, change.start, change.start + 50 * MINUTE, price=Decimal(change.price)
        )
        began_ms = 0 if began is None else _ms(began)
        version = Version(Authority.RECORD, change.position, change.deleted, source, began_ms, 1, content_hash(content))
        return (Delete if change.deleted else Upsert)(self.ref(change.name), version, content)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
