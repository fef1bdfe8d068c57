"""What a Colectiva webhook says (pure): an event's name, and nothing that we keep a copy of.

Body: `{event, data{…}, timestamp}` (Plenura's own handler of them); events of escrows, wallets, payouts and identity
checks. They carry no id of their own, so that a webhook sent twice is stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from eventsync.domain.fields import Fields
from eventsync.domain.payloads import read_object
from eventsync.domain.webhooks import WebhookContext, WebhookReading

_MAX_EVENT_TYPE_CHARS = 100


def read_webhook(body: bytes, headers: Mapping[str, str], _context: WebhookContext) -> WebhookReading:
    """Understand one webhook: it is stored and shown, and changes nothing.

    Raises Rejected with a reason of domain/payloads, or of domain/fields where `event` is missing or no text.
    """
    envelope = Fields("body", read_object(body, headers))
    event_type = envelope.text("event", _MAX_EVENT_TYPE_CHARS)
    if event_type is None:
        raise envelope.missing("event")
    return WebhookReading(event_type)
