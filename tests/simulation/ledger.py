"""What eventsync was told and has accepted: each webhook that got its 200, and what it should have come to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import orjson

from eventsync.domain.events import EventId
from simulation.full_read import Window
from simulation.mail import Letter


@dataclass(frozen=True, slots=True)
class Told:
    """One accepted webhook; `position` (Unix ms) is None where it only named its record, and `record` where none."""

    accepted_ms: int
    body: bytes
    intact: bool
    record: tuple[str, str] | None
    position: int | None
    deleted: bool


@dataclass(slots=True)
class Ledger:
    """Every webhook that was answered with 200, by its event; and the reads that may have missed an appointment."""

    told: dict[EventId, Told] = field(default_factory=dict)
    overlooked: dict[str, list[Window]] = field(default_factory=lambda: defaultdict(list))

    def accept(self, event_id: EventId, letter: Letter, now_ms: int) -> None:
        """Note a webhook that we answered for."""
        envelope = orjson.loads(letter.body) if letter.intact else {}
        record, position = _subject(envelope)
        deleted = envelope.get("EventType") == "AppointmentDeleted"
        self.told[event_id] = Told(now_ms, letter.body, letter.intact, record, position, deleted)


def _subject(envelope: dict[str, Any]) -> tuple[tuple[str, str] | None, int | None]:
    for member, kind in (("Appointment", "appointment"), ("Invoice", "invoice")):
        if member in envelope:
            modified = envelope[member]["LastModified"]
            return (kind, envelope[member]["Id"]), None if modified is None else int(modified)
    for member, kind in (("NoteId", "note"), ("IntakeId", "intake")):
        if member in envelope:
            return (kind, envelope[member]), None
    return None, None
