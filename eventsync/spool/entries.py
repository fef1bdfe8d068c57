"""An entry of the spool: how an event becomes sealed bytes on the local disk, and comes back.

The plaintext is `format (1 byte) + length of the head (4 bytes, big-endian) + head (JSON) + raw body`. It is sealed
with the lane and the event's id as context, so that nobody with the file alone can pass off an unverified request
as a verified one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId, HmacCheck, SignatureEncoding, WebhookVerifier
from eventsync.domain.errors import Misconfigured
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Lane, received_at_of
from eventsync.spool.errors import EntryDamaged

_FORMAT = 1
_PREFIX_BYTES = 5
_VERIFIERS_CONTEXT = "spool:verifiers"

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class UnverifiedEvent:
    """A request whose token nobody could judge, since Postgres was away and the token is not in the last known set.

    It keeps all that the judgement needs later: `token_hash` (SHA-256 of the token, 32 bytes), the raw `body`,
    `remote_address` for an allow-list, and every header as received, since which one carries a signature is known
    only with the connection. Mask the headers when it becomes an IncomingEvent.
    """

    id: EventId
    vendor: str
    token_hash: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    remote_address: str | None = field(default=None, repr=False)

    @property
    def received_at(self) -> datetime:
        """When it was received: the millisecond that its id begins with."""
        return received_at_of(self.id)


@dataclass(frozen=True, slots=True)
class SealedEntry:
    """One row of the spool: `verified` tells its lane, `sealed` opens to an event."""

    id: EventId
    verified: bool
    sealed: bytes = field(repr=False)


def seal_event(keyring: Keyring, event: IncomingEvent) -> SealedEntry:
    """Make the row of an event whose token was right."""
    head = {
        "connection_id": str(event.connection_id),
        "vendor": _to_json(event.vendor),
        "source": event.source.value,
        "headers": _headers_to_json(event.headers),
        "parked_reason": _optional_to_json(event.parked_reason),
        "lane": event.lane.value,
        "caused_by": None if event.caused_by is None else str(event.caused_by),
    }
    return SealedEntry(event.id, True, keyring.seal(_pack(head, event.body), _context(event.id, verified=True)))


def open_event(keyring: Keyring, entry: SealedEntry) -> IncomingEvent:
    """Read the row of an event whose token was right. Raises EntryDamaged."""
    head, body = _unsealed(keyring, entry)
    try:
        return IncomingEvent(
            id=entry.id,
            connection_id=ConnectionId(UUID(head["connection_id"])),
            vendor=_from_json(head["vendor"]),
            source=EventSource(head["source"]),
            headers=_headers_from_json(head["headers"]),
            body=body,
            parked_reason=_optional_from_json(head["parked_reason"]),
            lane=Lane(head["lane"]),
            caused_by=None if head["caused_by"] is None else EventId(UUID(head["caused_by"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EntryDamaged("unknown_format") from error


def seal_unverified(keyring: Keyring, event: UnverifiedEvent) -> SealedEntry:
    """Make the row of an event whose token is unknown."""
    head = {
        "vendor": _to_json(event.vendor),
        "token_hash": event.token_hash.hex(),
        "headers": _headers_to_json(event.headers),
        "remote_address": _optional_to_json(event.remote_address),
    }
    return SealedEntry(event.id, False, keyring.seal(_pack(head, event.body), _context(event.id, verified=False)))


def open_unverified(keyring: Keyring, entry: SealedEntry) -> UnverifiedEvent:
    """Read the row of an event whose token is unknown. Raises EntryDamaged."""
    head, body = _unsealed(keyring, entry)
    try:
        return UnverifiedEvent(
            id=entry.id,
            vendor=_from_json(head["vendor"]),
            token_hash=bytes.fromhex(head["token_hash"]),
            headers=_headers_from_json(head["headers"]),
            body=body,
            remote_address=_optional_from_json(head["remote_address"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EntryDamaged("unknown_format") from error


def seal_verifiers(keyring: Keyring, verifiers: Sequence[WebhookVerifier]) -> bytes:
    """Seal the set of token verifiers: it holds HMAC secrets."""
    head = {"verifiers": [_verifier_to_json(verifier) for verifier in verifiers]}
    return keyring.seal(_pack(head, b""), _VERIFIERS_CONTEXT)


def open_verifiers(keyring: Keyring, sealed: bytes) -> tuple[WebhookVerifier, ...]:
    """Read the set of token verifiers. Raises EntryDamaged."""
    try:
        head, _ = _unpack(keyring.open(sealed, _VERIFIERS_CONTEXT))
        return tuple(_verifier_from_json(verifier) for verifier in head["verifiers"])
    except Misconfigured as error:
        raise EntryDamaged("does_not_open") from error
    except (KeyError, TypeError, ValueError) as error:
        raise EntryDamaged("unknown_format") from error


def _context(event_id: EventId, *, verified: bool) -> str:
    return f"spool:{'verified' if verified else 'unverified'}:{event_id}"


def _unsealed(keyring: Keyring, entry: SealedEntry) -> tuple[dict[str, Any], bytes]:
    try:
        return _unpack(keyring.open(entry.sealed, _context(entry.id, verified=entry.verified)))
    except Misconfigured as error:
        raise EntryDamaged("does_not_open") from error


def _pack(head: Mapping[str, object], body: bytes) -> bytes:
    encoded = orjson.dumps(head)
    return b"".join((_FORMAT.to_bytes(1, "big"), len(encoded).to_bytes(4, "big"), encoded, body))


def _unpack(plaintext: bytes) -> tuple[dict[str, Any], bytes]:
    if plaintext[:1] != _FORMAT.to_bytes(1, "big"):
        raise EntryDamaged("unknown_format")
    end = _PREFIX_BYTES + int.from_bytes(plaintext[1:_PREFIX_BYTES], "big")
    try:
        return orjson.loads(plaintext[_PREFIX_BYTES:end]), plaintext[end:]
    except orjson.JSONDecodeError as error:
        raise EntryDamaged("unknown_format") from error


def _to_json(text: str) -> str:
    """Write any str, so that JSON takes it: a header with invalid UTF-8 arrives with lone surrogates."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _from_json(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogatepass")


def _optional_to_json(text: str | None) -> str | None:
    return None if text is None else _to_json(text)


def _optional_from_json(text: str | None) -> str | None:
    return None if text is None else _from_json(text)


def _headers_to_json(headers: Headers) -> list[list[str]]:
    return [[_to_json(name), _to_json(value)] for name, value in headers]


def _headers_from_json(headers: Sequence[Sequence[str]]) -> Headers:
    return tuple((_from_json(name), _from_json(value)) for name, value in headers)


def _verifier_to_json(verifier: WebhookVerifier) -> dict[str, object]:
    return {
        "token_hash": verifier.token_hash.hex(),
        "connection_id": str(verifier.connection_id),
        "vendor": _to_json(verifier.vendor),
        "hmac": None if verifier.hmac is None else _hmac_to_json(verifier.hmac),
        "allowed_networks": [_to_json(network) for network in verifier.allowed_networks],
        "expires_at": None if verifier.expires_at is None else verifier.expires_at.isoformat(),
    }


def _verifier_from_json(stored: Mapping[str, Any]) -> WebhookVerifier:
    return WebhookVerifier(
        token_hash=bytes.fromhex(stored["token_hash"]),
        connection_id=ConnectionId(UUID(stored["connection_id"])),
        vendor=_from_json(stored["vendor"]),
        hmac=None if stored["hmac"] is None else _hmac_from_json(stored["hmac"]),
        allowed_networks=tuple(_from_json(network) for network in stored["allowed_networks"]),
        expires_at=None if stored["expires_at"] is None else datetime.fromisoformat(stored["expires_at"]),
    )


def _hmac_to_json(check: HmacCheck) -> dict[str, object]:
    return {
        "header": _to_json(check.header),
        "secrets": [_to_json(secret) for secret in check.secrets],
        "encoding": check.encoding.value,
        "prefix": _to_json(check.prefix),
    }


def _hmac_from_json(stored: Mapping[str, Any]) -> HmacCheck:
    return HmacCheck(
        header=_from_json(stored["header"]),
        secrets=tuple(_from_json(secret) for secret in stored["secrets"]),
        encoding=SignatureEncoding(stored["encoding"]),
        prefix=_from_json(stored["prefix"]),
    )
