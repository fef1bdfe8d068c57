"""The tokens in webhook URLs: issued with a connection, shown again on request, rotated with an overlap.

The door asks here who may come in (`load_verifiers`, `find_verifier`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog

from eventsync.crypto import Keyring, hash_token, new_token
from eventsync.domain.connections import ConnectionId, HmacCheck, OrganizationId, SignatureEncoding, WebhookVerifier
from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.postgres.access import Access, log_access
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Sql:
    insert_token: str
    lock_connection: str
    drop_expired: str
    expire_earlier: str
    list_tokens: str
    load_verifiers: str
    find_verifier: str


SQL = load_statements(_Sql, "webhook_tokens.sql")


@dataclass(frozen=True, slots=True)
class RevealedToken:
    """A token shown again; `expires_at` is set on one that a rotation has replaced."""

    token: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None


class WebhookTokens:
    """`webhook_tokens`, and the verifiers that the door keeps in memory."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def load_verifiers(self, now: datetime) -> list[WebhookVerifier]:
        """List all that are valid now: of living connections, with unexpired tokens.

        A connection whose secrets do not open is left out and logged, so that it alone stays outside.
        """
        async with self._database.session() as session:
            rows = await session.fetch(SQL.load_verifiers, now)
        return [verifier for row in rows if (verifier := self._verifier_or_none(row)) is not None]

    async def find_verifier(self, token_hash: bytes, now: datetime) -> WebhookVerifier | None:
        """Look one up. Raises Transient, and Misconfigured where its connection's secrets do not open."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.find_verifier, now, token_hash)
        return None if row is None else self._verifier(row)

    async def rotate(
        self, connection_id: ConnectionId, organization_id: OrganizationId | None, now: datetime, overlap: timedelta
    ) -> str:
        """Issue a new token; the ones before work until `overlap` is over.

        Raises Rejected("unknown_connection") where the organization (None: any) has no such connection.
        """
        async with self._database.transaction() as session:
            if await session.fetchval(SQL.lock_connection, connection_id, organization_id) is None:
                raise unknown_connection()
            await session.execute(SQL.drop_expired, connection_id, now)
            await session.execute(SQL.expire_earlier, connection_id, now + overlap)
            return await issue_token(session, self._keyring, connection_id, now)

    async def reveal(
        self, connection_id: ConnectionId, organization_id: OrganizationId | None, actor: str, now: datetime
    ) -> list[RevealedToken]:
        """Show the connection's living tokens, the latest first, and note in the access log that `actor` saw them.

        Raises Rejected("unknown_connection") where the organization (None: any) has no such connection.
        """
        async with self._database.transaction() as session:
            rows = await session.fetch(SQL.list_tokens, connection_id, now, organization_id)
            if not rows:
                raise unknown_connection()
            await log_access(session, Access(now, actor, "reveal_webhook_token", f"connection:{connection_id}"))
        return [self._revealed(row) for row in rows]

    def _revealed(self, row: Mapping[str, Any]) -> RevealedToken:
        token = self._keyring.open(row["token_sealed"], _token_context(row["token_hash"])).decode()
        return RevealedToken(token, row["created_at"], row["expires_at"])

    def _verifier_or_none(self, row: Mapping[str, Any]) -> WebhookVerifier | None:
        try:
            return self._verifier(row)
        except Misconfigured as error:
            _log.error("connection_left_out", connection_id=str(row["connection_id"]), error=str(error))
            return None

    def _verifier(self, row: Mapping[str, Any]) -> WebhookVerifier:
        connection_id = ConnectionId(row["connection_id"])
        return WebhookVerifier(
            token_hash=row["token_hash"],
            connection_id=connection_id,
            vendor=row["vendor"],
            hmac=open_hmac(self._keyring, connection_id, row["hmac_sealed"]),
            allowed_networks=tuple(row["allowed_networks"]),
            expires_at=row["expires_at"],
        )


async def issue_token(session: Session, keyring: Keyring, connection_id: ConnectionId, now: datetime) -> str:
    """Make a token for a connection, in the caller's transaction."""
    token = new_token()
    token_hash = hash_token(token)
    sealed = keyring.seal(token.encode(), _token_context(token_hash))
    await session.execute(SQL.insert_token, token_hash, connection_id, sealed, now)
    return token


def seal_hmac(keyring: Keyring, connection_id: ConnectionId, check: HmacCheck | None) -> bytes | None:
    """Seal a connection's signature check."""
    return None if check is None else keyring.seal(orjson.dumps(check), _hmac_context(connection_id))


def open_hmac(keyring: Keyring, connection_id: ConnectionId, sealed: bytes | None) -> HmacCheck | None:
    """Open what `seal_hmac` sealed. Raises Misconfigured when no key of ours fits."""
    if sealed is None:
        return None
    stored = orjson.loads(keyring.open(sealed, _hmac_context(connection_id)))
    return HmacCheck(
        header=stored["header"],
        secrets=tuple(stored["secrets"]),
        encoding=SignatureEncoding(stored["encoding"]),
        prefix=stored["prefix"],
    )


def unknown_connection() -> Rejected:
    """Make the error for a connection that the asking organization does not have."""
    return Rejected("unknown_connection", "there is no such connection: see `eventsync connections list`")


def _token_context(token_hash: bytes) -> str:
    return f"webhook-token:{token_hash.hex()}"


def _hmac_context(connection_id: ConnectionId) -> str:
    return f"connection:{connection_id}:hmac"
