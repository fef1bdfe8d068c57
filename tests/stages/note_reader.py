"""A vendor's account that answers every read with a note or an intake, as the test lets it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from eventsync.domain.changes import EntityRef, RecordChange, Source
from eventsync.domain.events import EventId
from eventsync.domain.fields import Fields
from eventsync.domain.records import RecordKind
from eventsync.postgres.queue_values import RefetchLease
from eventsync.stages.refetch import Refetcher
from eventsync.vendorkit.budget import Purpose
from eventsync.vendors.intakeq.documents import deleted_document, intake_change, note_change
from eventsync.vendors.intakeq.mapping import Reading
from stages.spine import Spine, sample


class NoteReader:
    """Records the reads. `before` runs in each, and may wait or raise; where `gone` is set, nothing is found."""

    def __init__(self, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.gone = False
        self.text = "as it was"
        self.sequences: dict[str, list[int]] = {}
        self.most_at_once: Counter[str] = Counter()
        self._now: Counter[str] = Counter()

    async def check_credentials(self) -> None:
        """Accept them."""

    async def refetch(
        self,
        entity: EntityRef,
        *,
        sequence: int,
        read_began_ms: int,
        purpose: Purpose = Purpose.REFETCH,  # noqa: ARG002  # whatever it is paid from
    ) -> tuple[RecordChange, ...]:
        """Read one record."""
        key = entity.external_id
        self.sequences.setdefault(key, []).append(sequence)
        self._now[key] += 1
        self.most_at_once[key] = max(self.most_at_once[key], self._now[key])
        try:
            if self.before is not None:
                await self.before()
        finally:
            self._now[key] -= 1
        reading = Reading(entity.connection_id, Source.API, read_began_ms)
        if self.gone:
            return (deleted_document(reading, entity, sequence=sequence),)
        if entity.kind is RecordKind.NOTE:
            fields = Fields("Note", sample("api_note") | {"Id": key, "NoteName": self.text})
            return (note_change(reading, fields, sequence=sequence),)
        fields = Fields("Intake", sample("api_intake") | {"Id": key})
        return (intake_change(reading, fields, sequence=sequence),)

    @property
    def reads(self) -> int:
        """How often anything was read."""
        return sum(map(len, self.sequences.values()))


def refetcher_of(spine: Spine, client: NoteReader) -> Refetcher:
    """Make a refetcher whose every account is `client`."""
    return Refetcher(spine.queue, spine.writer, spine.directory, lambda _: client, spine.metrics, spine.clock)


async def a_note_was_locked(spine: Spine, note_id: str = "n1", *, times: int = 1) -> list[EventId]:
    """Receive `Note Locked` so often, and leave it to the refetchers."""
    return await spine.apply(*[sample("note_locked") | {"NoteId": note_id}] * times)


async def leased(refetcher: Refetcher, event_id: EventId) -> RefetchLease:
    """Take the right to read, which must be free."""
    lease = await refetcher.lease(event_id)
    assert lease is not None
    return lease


def at(gate: asyncio.Event, begun: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """Make a `before` that tells that the read has begun and waits at a gate."""

    async def wait() -> None:
        begun.set()
        await gate.wait()

    return wait


def raising(error: Exception) -> Callable[[], Awaitable[None]]:
    """Make a `before` that fails every read."""

    async def fail() -> None:
        raise error

    return fail
