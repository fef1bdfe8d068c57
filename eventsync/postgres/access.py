"""Who may use the management API (tokens), who read personal data (access log), who was turned away at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from eventsync.crypto import hash_token, new_token
from eventsync.domain.connections import OrganizationId
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    insert_token: str
    list_tokens: str
    revoke_token: str
    authenticate: str
    insert_access: str
    list_accesses: str
    prune_accesses: str
    count_refused: str
    list_refused: str
    prune_refused: str


SQL = load_statements(_Sql, "access.sql")


class Role(StrEnum):
    """What a token or a user may do."""

    ADMIN = "admin"  # everything, in every organization
    OPERATOR = "operator"  # read and act within one organization
    VIEWER = "viewer"  # read within one organization


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request: `organization_id` is None for an admin only. `actor` names it in the access log."""

    actor: str
    role: Role
    organization_id: OrganizationId | None


@dataclass(frozen=True, slots=True)
class NewApiToken:
    """A token that was just made: `token` is shown this once and stored as its hash only."""

    id: UUID
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token as it is listed."""

    id: UUID
    name: str
    role: Role
    organization_id: OrganizationId | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Access:
    """One reading of personal data or of a secret: who, what was done (`reveal`), to what. Ids only."""

    at: datetime
    actor: str
    action: str
    subject: str


@dataclass(frozen=True, slots=True)
class RefusalKey:
    """What refused requests are counted by; `hour` is its beginning, aware."""

    hour: datetime
    vendor: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefusedRequests:
    """How often the door turned requests away in one hour for one reason."""

    hour: datetime
    vendor: str
    reason: str
    count: int
    last_at: datetime


class ApiTokens:
    """`api_tokens`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, role: Role, organization_id: OrganizationId | None, now: datetime, name: str = ""
    ) -> NewApiToken:
        """Make a token. Raises Misconfigured unless it is an admin's or bound to an organization, and never both."""
        if (role is Role.ADMIN) != (organization_id is None):
            raise Misconfigured("an admin's token belongs to no organization, every other token needs one (--org)")
        token = new_token()
        async with self._database.session() as session:
            row = (hash_token(token), name, role.value, organization_id, now)
            return NewApiToken(await session.fetchval(SQL.insert_token, *row), token)

    async def tokens(self, organization_id: OrganizationId | None) -> list[ApiToken]:
        """List the organization's tokens, or all where None is given, revoked ones included; oldest first."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_tokens, organization_id)
        return [ApiToken(**dict(row) | {"role": Role(row["role"])}) for row in rows]

    async def revoke(self, token_id: UUID, organization_id: OrganizationId | None, now: datetime) -> bool:
        """End a token at once; False where the organization (or anyone, for None) has no such living token."""
        async with self._database.session() as session:
            return await session.fetchval(SQL.revoke_token, token_id, now, organization_id) is not None

    async def authenticate(self, token_hash: bytes, now: datetime) -> Principal | None:
        """Tell whose token this is; None for an unknown or revoked one. Notes its use once a minute at most."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.authenticate, token_hash, now)
        return None if row is None else Principal(f"token:{row['id']}", Role(row["role"]), row["organization_id"])


async def log_access(session: Session, access: Access) -> None:
    """Write the access log in the transaction that reads, so that nothing is read unlogged."""
    await session.execute(SQL.insert_access, access.at, access.actor, access.action, access.subject)


class AccessLog:
    """`access_log`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, access: Access) -> None:
        """Note one access."""
        async with self._database.session() as session:
            await log_access(session, access)

    async def latest(self, *, before_id: int | None = None, limit: int = 100) -> list[tuple[int, Access]]:
        """List accesses with their ids, the latest first."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_accesses, before_id, limit)
        return [(row["id"], Access(row["at"], row["actor"], row["action"], row["subject"])) for row in rows]

    async def prune(self, before: datetime) -> None:
        """Remove what is older."""
        async with self._database.session() as session:
            await session.execute(SQL.prune_accesses, before)


class RefusalCounts:
    """`refused_requests`: evidence that stays small whatever is thrown at the door."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, counts: Mapping[RefusalKey, int], now: datetime) -> None:
        """Add what the door counted; vendors that nobody is connected to are counted together as `unknown`."""
        if not counts:
            return
        keys = list(counts)
        columns = [key.hour for key in keys], [_storable(key.vendor) for key in keys], [key.reason for key in keys]
        async with self._database.session() as session:
            await session.execute(SQL.count_refused, *columns, list(counts.values()), now)

    async def since(self, first_hour: datetime) -> list[RefusedRequests]:
        """List the counts of every hour from `first_hour` on, the latest first."""
        async with self._database.session() as session:
            return [RefusedRequests(**dict(row)) for row in await session.fetch(SQL.list_refused, first_hour)]

    async def prune(self, before: datetime) -> None:
        """Remove what is older."""
        async with self._database.session() as session:
            await session.execute(SQL.prune_refused, before)


def _storable(vendor: str) -> str:
    """PostgreSQL holds neither NUL nor lone surrogates, which a caller's path may bring; no vendor has such a name."""
    return vendor if vendor.isascii() and vendor.isprintable() else "unknown"
