"""What reading a webhook takes and gives: the values between the stages and each vendor's pure `read_webhook`."""

from __future__ import annotations

from dataclasses import dataclass

from eventsync.domain.changes import Change, EntityRef
from eventsync.domain.connections import ConnectionId


@dataclass(frozen=True, slots=True)
class WebhookContext:
    """What reading a webhook needs to know of its connection: `practice_id` is None where none was set."""

    connection_id: ConnectionId
    practice_id: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookReading:
    """What a webhook says. `subject` is the record that it is about, None where the event names none we keep.

    `changes` may be empty: an event of a kind that we do not know is stored and shown, and changes nothing.
    """

    event_type: str
    subject: EntityRef | None = None
    changes: tuple[Change, ...] = ()
