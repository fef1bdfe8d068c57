"""Changes of the signature that a connection's webhooks must carry: sealed, whole, and in the owner's hands."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId, HmacCheck, OrganizationId, SignatureEncoding
from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.postgres.connection_signatures import HmacChange
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import ConnectionChanges, Connections, NewConnection, Organizations
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.vendors import load_vendors

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
KEYRING = Keyring([b"k" * 32])
OTHER_KEYRING = Keyring([b"o" * 32])
SIGNED = HmacCheck("X-Signature", ("secret-1", "secret-2"), SignatureEncoding.BASE64, "sha256=")


@pytest.fixture
def connections(pool: Database) -> Connections:
    return Connections(pool, KEYRING, load_vendors())


@pytest.fixture
def tokens(pool: Database) -> WebhookTokens:
    return WebhookTokens(pool, KEYRING)


@pytest.fixture
async def signed(pool: Database, connections: Connections) -> ConnectionId:
    """A connection whose webhooks must be SIGNED."""
    owner = await Organizations(pool).add("Test Practice", "practice-7", NOW)
    return (await connections.add(NewConnection(owner.id, "intakeq", "key-1", hmac=SIGNED), NOW)).id


async def test_no_secret_of_a_change_stands_in_what_is_printed_of_it_or_readable_in_the_database(
    pool: Database, connections: Connections, signed: ConnectionId
) -> None:
    changes = ConnectionChanges(api_key="key-2", hmac=HmacChange(("secret-1",), "X-Signature"))
    await connections.update(signed, changes, None, NOW)
    async with pool.session() as session:
        stored = await session.fetchrow("SELECT c::text AS text, hmac_sealed FROM connections c")
    assert b"secret-1" not in stored["hmac_sealed"]
    assert not any(secret in repr(changes) + stored["text"] for secret in ("key-2", "secret-1"))


async def test_two_changes_of_one_signature_at_once_lose_nothing(
    connections: Connections, tokens: WebhookTokens, signed: ConnectionId
) -> None:
    changes = (HmacChange(secrets=("secret-3",)), HmacChange(prefix="v1="), HmacChange(header="X-Gateway"))
    async with asyncio.TaskGroup() as group:
        for change in changes:
            group.create_task(connections.update(signed, ConnectionChanges(hmac=change), None, NOW))
    (verifier,) = await tokens.load_verifiers(NOW)
    assert verifier.hmac == HmacCheck("X-Gateway", ("secret-3",), SignatureEncoding.BASE64, "v1=")


async def test_another_organization_cannot_take_a_signature_away(
    connections: Connections, tokens: WebhookTokens, signed: ConnectionId
) -> None:
    with pytest.raises(Rejected, match="no such connection"):
        await connections.update(signed, ConnectionChanges(removes_hmac=True), OrganizationId(uuid4()), NOW)
    (verifier,) = await tokens.load_verifiers(NOW)
    assert verifier.hmac == SIGNED


async def test_a_signature_whose_key_is_lost_is_changed_only_after_it_was_taken_away(
    pool: Database, connections: Connections, tokens: WebhookTokens, signed: ConnectionId
) -> None:
    foreign = Connections(pool, OTHER_KEYRING, load_vendors())
    await foreign.update(signed, ConnectionChanges(removes_hmac=True), None, NOW)
    await foreign.update(signed, ConnectionChanges(hmac=HmacChange(SIGNED.secrets, SIGNED.header)), None, NOW)
    change = ConnectionChanges(hmac=HmacChange(("secret-3",), "X-Signature"))
    with pytest.raises(Misconfigured, match="EVENTSYNC_ENCRYPTION_KEYS"):
        await connections.update(signed, change, None, NOW)
    await connections.update(signed, ConnectionChanges(removes_hmac=True), None, NOW)
    await connections.update(signed, change, None, NOW)
    (verifier,) = await tokens.load_verifiers(NOW)
    assert verifier.hmac == HmacCheck("X-Signature", ("secret-3",))
