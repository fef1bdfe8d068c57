"""Organizations and their connections to vendors: who owns what, with credentials sealed at rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.connections import Connection, ConnectionId, HmacCheck, OrganizationId
from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.postgres.connection_settings import (
    api_key_checked,
    base_url_checked,
    call_limits,
    networks_checked,
    settings_checked,
    timezone_checked,
)
from eventsync.postgres.connection_signatures import HmacChange, hmac_checked
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements
from eventsync.postgres.webhook_tokens import issue_token, open_hmac, seal_hmac, unknown_connection
from eventsync.vendorkit.vendor import Vendor

_LARGEST_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Sql:
    insert_organization: str
    list_organizations: str
    find_organization: str
    insert_connection: str
    list_connections: str
    find_connection: str
    load_connection: str
    load_connections: str
    disable_connection: str
    update_connection: str
    relocate_connection: str
    lock_signature: str


SQL = load_statements(_Sql, "tenants.sql")


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant. `external_id` is its id in the systems that call us."""

    id: OrganizationId
    number: int
    external_id: str | None
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewConnection:
    """What a person gives to connect an account; `base_url` of None is the vendor's own."""

    organization_id: OrganizationId
    vendor: str
    api_key: str = field(repr=False)
    base_url: str | None = None
    practice_id: str | None = None
    timezone: str = "UTC"
    hmac: HmacCheck | None = field(default=None, repr=False)
    allowed_networks: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConnectionChanges:
    """What is to be changed of a connection: None stays as it is. `settings` are added to those that there are.

    A `practice_id` that is empty takes the check of it away, `removes_hmac` that of a signature.
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    practice_id: str | None = None
    timezone: str | None = None
    hmac: HmacChange | None = None
    removes_hmac: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddedConnection:
    """A connection just made, with the token for its webhook URL."""

    id: ConnectionId
    webhook_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConnectionSummary:
    """A connection as it is listed, without secrets."""

    id: ConnectionId
    number: int
    organization_id: OrganizationId
    vendor: str
    base_url: str
    practice_id: str | None
    timezone: str
    requires_signature: bool
    allowed_networks: tuple[str, ...]
    settings: Mapping[str, str]
    created_at: datetime
    disabled_at: datetime | None


class Organizations:
    """`organizations`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, name: str, external_id: str | None, now: datetime) -> Organization:
        """Add a tenant. Raises Rejected("duplicate_external_id") where another has that external id."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.insert_organization, name, external_id, now)
        if row is None:
            raise Rejected("duplicate_external_id", "another organization has this external id: choose another")
        return Organization(**dict(row))

    async def all(self) -> list[Organization]:
        """List every tenant in the order of their numbers."""
        async with self._database.session() as session:
            return [Organization(**dict(row)) for row in await session.fetch(SQL.list_organizations)]

    async def find(self, reference: str) -> Organization | None:
        """Find a tenant by its uuid, its external id or its number; None where there is none."""
        async with self._database.session() as session:
            return await find_organization(session, reference)


class Connections:
    """`connections`: a vendor's defaults come from `vendors`, whatever a connection says itself goes before."""

    def __init__(self, database: Database, keyring: Keyring, vendors: Mapping[str, Vendor]) -> None:
        self._database = database
        self._keyring = keyring
        self._vendors = vendors

    async def add(self, new: NewConnection, now: datetime) -> AddedConnection:
        """Add a connection with its first webhook token. Raises Misconfigured where something given is wrong."""
        connection_id = ConnectionId(uuid4())
        row = (
            connection_id,
            new.organization_id,
            new.vendor,
            base_url_checked(new.base_url or self._vendor(new.vendor).default_base_url),
            self._keyring.seal(api_key_checked(new.api_key).encode(), _api_key_context(connection_id)),
            seal_hmac(self._keyring, connection_id, None if new.hmac is None else hmac_checked(new.hmac)),
            new.practice_id,
            timezone_checked(new.timezone),
            networks_checked(new.allowed_networks),
            orjson.dumps(settings_checked(new.settings)).decode(),
            now,
        )
        async with self._database.transaction() as session:
            await session.execute(SQL.insert_connection, *row)
            token = await issue_token(session, self._keyring, connection_id, now)
        return AddedConnection(connection_id, token)

    async def summaries(self, organization_id: OrganizationId | None) -> list[ConnectionSummary]:
        """List the organization's connections (None: everyone's), disabled ones included."""
        async with self._database.session() as session:
            return [_summary(row) for row in await session.fetch(SQL.list_connections, organization_id)]

    async def find(self, reference: str, organization_id: OrganizationId | None) -> ConnectionSummary | None:
        """Find a connection of the organization (None: anyone's) by its uuid or number."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.find_connection, _uuid(reference), _int(reference), organization_id)
        return None if row is None else _summary(row)

    async def update(
        self,
        connection_id: ConnectionId,
        changes: ConnectionChanges,
        organization_id: OrganizationId | None,
        now: datetime,
    ) -> None:
        """Change a connection; its records, webhook URL and history stay. Raises Misconfigured for a wrong value.

        Raises Rejected("unknown_connection") where the organization (None: any) has no such connection.
        """
        key, context = changes.api_key, _api_key_context(connection_id)
        row = (
            None if key is None else self._keyring.seal(api_key_checked(key).encode(), context),
            None if changes.base_url is None else base_url_checked(changes.base_url),
            changes.practice_id,
            None if changes.timezone is None else timezone_checked(changes.timezone),
            orjson.dumps(settings_checked(changes.settings)).decode(),
            now,
        )
        async with self._database.transaction() as session:
            before = await session.fetchrow(SQL.lock_signature, connection_id, organization_id)
            if before is None:
                raise unknown_connection()
            hmac_sealed = self._changed_hmac(connection_id, before, changes)
            await session.execute(SQL.update_connection, connection_id, *row, hmac_sealed)

    async def disable(self, connection_id: ConnectionId, organization_id: OrganizationId | None, now: datetime) -> None:
        """Close the door for its webhooks and end its reads.

        Raises Rejected("unknown_connection") where the organization (None: any) has no such living connection.
        """
        async with self._database.session() as session:
            if await session.fetchval(SQL.disable_connection, connection_id, now, organization_id) is None:
                raise unknown_connection()

    async def relocate(self, connection_id: ConnectionId, base_url: str, now: datetime) -> None:
        """Let a connection's reads go to another address of its vendor's API. Raises Misconfigured for no URL."""
        async with self._database.session() as session:
            await session.execute(SQL.relocate_connection, connection_id, base_url_checked(base_url), now)

    async def load_connection(self, connection_id: ConnectionId) -> Connection | None:
        """Open one connection, disabled or not. Raises Misconfigured when no key of ours opens its credentials."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.load_connection, connection_id)
        return None if row is None else self._opened(row)

    async def load_connections(self) -> list[Connection]:
        """Open every connection that is not disabled. Raises Misconfigured when one's credentials do not open."""
        async with self._database.session() as session:
            return [self._opened(row) for row in await session.fetch(SQL.load_connections)]

    def _vendor(self, name: str) -> Vendor:
        if name not in self._vendors:
            raise Misconfigured(f"there is no such vendor: choose one of {', '.join(sorted(self._vendors))}")
        return self._vendors[name]

    def _changed_hmac(
        self, connection_id: ConnectionId, before: Mapping[str, Any], changes: ConnectionChanges
    ) -> bytes | None:
        """Seal the signature check that holds after the changes, from the `hmac_sealed` and the vendor before."""
        if changes.removes_hmac:
            return None
        sealed: bytes | None = before["hmac_sealed"]
        if changes.hmac is None:
            return sealed
        check = open_hmac(self._keyring, connection_id, sealed)
        changed = changes.hmac.applied_to(check, self._vendor(before["vendor"]).webhook_signature)
        return seal_hmac(self._keyring, connection_id, changed)

    def _opened(self, row: Mapping[str, Any]) -> Connection:
        connection_id, settings = ConnectionId(row["id"]), orjson.loads(row["settings"])
        limits = call_limits(settings, self._vendor(row["vendor"]).limits)
        return Connection(
            id=connection_id,
            number=row["number"],
            organization_id=row["organization_id"],
            vendor=row["vendor"],
            base_url=row["base_url"],
            api_key=self._keyring.open(row["api_key_sealed"], _api_key_context(connection_id)).decode(),
            practice_id=row["practice_id"],
            timezone=row["timezone"],
            calls_per_minute=limits.calls_per_minute,
            calls_per_day=limits.calls_per_day,
            settings=settings,
            disabled_at=row["disabled_at"],
        )


async def find_organization(session: Session, reference: str) -> Organization | None:
    """Find a tenant as `Organizations.find` does, in the caller's transaction."""
    row = await session.fetchrow(SQL.find_organization, _uuid(reference), _storable(reference), _int(reference))
    return None if row is None else Organization(**dict(row))


def _summary(row: Mapping[str, Any]) -> ConnectionSummary:
    return ConnectionSummary(
        id=row["id"],
        number=row["number"],
        organization_id=row["organization_id"],
        vendor=row["vendor"],
        base_url=row["base_url"],
        practice_id=row["practice_id"],
        timezone=row["timezone"],
        requires_signature=row["hmac_sealed"] is not None,
        allowed_networks=tuple(row["allowed_networks"]),
        settings=orjson.loads(row["settings"]),
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
    )


def _api_key_context(connection_id: ConnectionId) -> str:
    return f"connection:{connection_id}:api_key"


def _uuid(reference: str) -> UUID | None:
    try:
        return UUID(reference)
    except ValueError:
        return None


def _int(reference: str) -> int | None:
    if not (reference.isascii() and reference.isdecimal() and len(reference) <= 10):
        return None
    number = int(reference)
    return number if number <= _LARGEST_NUMBER else None


def _storable(reference: str) -> str | None:
    """PostgreSQL holds neither NUL nor lone surrogates, so no external id can be such a text."""
    return reference if "\0" not in reference and reference.isprintable() else None
