"""Makes an event of a verified request: what can never be read is marked, what proves the caller is blotted out. Pure.

Both ways to PostgreSQL, straight from the door and by way of the spool, make their events here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import Rejected
from eventsync.domain.events import EventId, EventSource, IncomingEvent
from eventsync.domain.payloads import parse_json

Headers = Sequence[tuple[str, str]]

MASKED = "[masked]"
# Parts of names: Authorization, Cookie, X-Api-Key, X-Auth-Token, X-Hub-Signature, X-Amzn-Oidc-Data, ...
_SECRET_WORDS = re.compile("auth|cookie|token|secret|key|passw|signature|session|credential|jwt|oidc")


def incoming(event_id: EventId, verifier: WebhookVerifier, headers: Headers, body: bytes) -> IncomingEvent:
    """Make the event of a verified request; its `parked_reason` is set where the body can never be applied."""
    return IncomingEvent(
        id=event_id,
        connection_id=verifier.connection_id,
        vendor=verifier.vendor,
        source=EventSource.WEBHOOK,
        headers=mask_headers(headers, verifier),
        body=body,
        parked_reason=reason_to_park(headers, body),
    )


def reason_to_park(headers: Headers, body: bytes) -> str | None:
    """Parse once, to tell at the door when a body can never be read; a compressed one is inflated when it is."""
    if not body:
        return "empty_body"
    codings = ",".join(value for name, value in headers if name.lower() == "content-encoding")
    if codings.strip().lower() not in ("", "identity"):
        return None
    try:
        parse_json(body)
    except Rejected as error:
        return error.reason
    return None


def mask_headers(headers: Headers, verifier: WebhookVerifier) -> tuple[tuple[str, str], ...]:
    """Blot out what proves who the caller is, so that a stored request cannot be sent again by whoever reads it."""
    signature = None if verifier.hmac is None else verifier.hmac.header.lower()
    return tuple(
        (_storable(name), MASKED if _is_secret(name.lower(), signature) else _storable(value))
        for name, value in headers
    )


def without_token(headers: Headers, token: str) -> tuple[tuple[str, str], ...]:
    """Blot out the webhook URL's token wherever a proxy repeats it, as in X-Original-URI."""
    return tuple((name, value.replace(token, MASKED)) for name, value in headers)


def single_valued(headers: Headers) -> Mapping[str, str]:
    """Fold headers of the same name into one, as HTTP allows: two signatures are then none, as they are at the door."""
    folded: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        folded[key] = f"{folded[key]}, {value}" if key in folded else value
    return folded


def _is_secret(name: str, signature: str | None) -> bool:
    return name == signature or _SECRET_WORDS.search(name) is not None


def _storable(text: str) -> str:
    """Replace the lone surrogates that stand for bytes which are not UTF-8: no JSON writer takes them."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
