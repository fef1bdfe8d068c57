"""The tables that fill the outbound queue: puts our triggers on those that a user has already, and takes them off.

Stands before `ecosystem_sync_queue`: what the triggers do is told in SQL (migration 0006), here a table is checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

_LOCK_TIMEOUT_S = 5
_PLAIN, _PARTITIONED = "r", "p"


@dataclass(frozen=True, slots=True)
class _Sql:
    bound_waiting: str
    describe: str
    rival_triggers: str
    drop_rival_triggers: str
    attach: str
    count_unqueued: str
    detach: str


SQL = load_statements(_Sql, "outbound_sources.sql")


class EntityType(StrEnum):
    """What kind of organization a table's rows are."""

    PRACTICE = "practice"
    THERAPIST = "therapist"


@dataclass(frozen=True, slots=True)
class Source:
    """A table that is to fill the queue, by its name, which may have a schema before it.

    `users` is the table that has the names and addresses of therapists, None where their own table has them.
    """

    entity_type: EntityType
    table: str
    users: str | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """A table that fills the queue now. `is_new` is False where it did already, in just this way.

    `dropped` names the triggers of others that it replaces. `queue_them` is SQL for those rows that were never queued.
    """

    entity_type: EntityType
    table: str
    users: str | None
    is_new: bool
    dropped: tuple[str, ...]
    organizations: int
    never_queued: int
    queue_them: str


@dataclass(frozen=True, slots=True)
class Detached:
    """A table that fills the queue no more; `was_attached` is False where it did not before."""

    table: str
    was_attached: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """What the catalog tells of a table; `columns` gives types by name."""

    oid: int
    name: str
    kind: str
    is_partition: bool
    is_temporary: bool
    is_readable: bool
    takes_triggers: bool
    hides_rows: bool
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A source whose tables were found."""

    entity_type: EntityType
    table: _Table
    users: _Table | None


class OutboundSources:
    """The triggers that fill `ecosystem_sync_queue`.

    Every method raises Transient while PostgreSQL is away or a table stays in use, and Misconfigured where the
    database's user may not do what is asked.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def existing(self, tables: Sequence[str]) -> list[str]:
        """Tell which of `tables` are there."""
        async with self._changes() as session:
            return [table for table in tables if await _find(session, table) is not None]

    async def attach(self, sources: Sequence[Source], *, replaces: bool) -> list[Attached]:
        """Put our triggers on all `sources`, or on none. Where they are there already, nothing changes.

        Raises Rejected, with all that is wrong, where a table cannot be attached, or where triggers of others fill the
        queue from it; those are dropped where it `replaces` them.
        """
        async with self._changes() as session:
            candidates = [await _candidate(session, source) for source in sources]
            problems = [problem for candidate in candidates for problem in _problems(candidate)]
            if problems:
                raise Rejected("cannot_attach", "; ".join(problems))
            rivals = [tuple(row[0] for row in await session.fetch(SQL.rival_triggers, candidate.table.oid))
                      for candidate in candidates]  # fmt: skip
            if any(rivals) and not replaces:
                raise _already_filled(candidates, rivals)
            return [await _attach(session, *entry) for entry in zip(candidates, rivals, strict=True)]

    async def detach(self, tables: Sequence[str]) -> list[Detached]:
        """Take our triggers off all `tables`; what is queued stays. Raises Rejected where one does not exist."""
        async with self._changes() as session:
            found = [await _existing(session, table) for table in tables]
            return [Detached(table.name, await session.fetchval(SQL.detach, table.oid)) for table in found]

    @asynccontextmanager
    async def _changes(self) -> AsyncIterator[Session]:
        async with self._database.transaction() as session:
            await session.execute(SQL.bound_waiting, f"{_LOCK_TIMEOUT_S}s")
            try:
                yield session
            except asyncpg.LockNotAvailableError as error:
                raise Transient(
                    f"another session has held a table for {_LOCK_TIMEOUT_S} s, nothing was changed: try again when its"
                    " transaction has ended (pg_stat_activity shows it)"
                ) from error
            except asyncpg.InsufficientPrivilegeError as error:
                raise Misconfigured(
                    f"nothing was changed, since PostgreSQL refuses it ({error}): let eventsync's database user own the"
                    " table, or be a member of the role that does"
                ) from error


async def _attach(session: Session, candidate: _Candidate, rivals: tuple[str, ...]) -> Attached:
    table, users = candidate.table, candidate.users
    if rivals:
        await session.execute(SQL.drop_rival_triggers, table.oid)
    arguments = (candidate.entity_type.value, table.oid, None if users is None else users.oid)
    is_new = await session.fetchval(SQL.attach, *arguments)
    counts = await session.fetchrow(SQL.count_unqueued, *arguments[:2])
    users_name = None if users is None else users.name
    return Attached(candidate.entity_type, table.name, users_name, is_new, rivals, **dict(counts))


async def _candidate(session: Session, source: Source) -> _Candidate:
    users = None if source.users is None else await _existing(session, source.users)
    return _Candidate(source.entity_type, await _existing(session, source.table), users)


async def _existing(session: Session, table: str) -> _Table:
    found = await _find(session, table)
    if found is None:
        raise Rejected(
            "no_such_table",
            f"there is no table {table} in this database: write its schema before it (schema.table), and its name in"
            ' double quotes where it has capitals ("Name")',
        )
    return found


async def _find(session: Session, table: str) -> _Table | None:
    try:
        row = await session.fetchrow(SQL.describe, table)
    except (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError) as error:
        raise Rejected("no_such_table", f"{table} is no table that can be seen from here ({error})") from error
    return None if row is None else _Table(**{**row, "columns": dict(row["columns"])})


def _problems(candidate: _Candidate) -> Iterator[str]:
    """Tell what keeps a table from filling the queue."""
    yield from _hindrances(candidate.table)
    if candidate.users is not None:
        yield from _hindrances(candidate.users)
    if candidate.entity_type is EntityType.PRACTICE:
        yield from _missing(candidate.table, {"id": "uuid", "name": None, "email": None})
    else:
        yield from _missing_of_therapists(candidate.table, candidate.users)


def _missing_of_therapists(table: _Table, users: _Table | None) -> Iterator[str]:
    yield from _missing(table, {"id": "uuid", "is_independent": "boolean", "vetting_status": None})
    if users is not None:
        yield from _missing(table, {"user_id": "uuid"})
        yield from _missing(users, {"id": "uuid", "email": None})
        if not {"full_name", "name"} & users.columns.keys():
            yield f"{users.name} has no column full_name (or name)"
    elif "email" not in table.columns or not {"full_name", "name"} & table.columns.keys():
        yield f"{table.name} has no columns full_name (or name) and email: say with --users which table has them"


def _hindrances(table: _Table) -> Iterator[str]:
    if table.kind not in {_PLAIN, _PARTITIONED} or table.is_temporary:
        yield f"{table.name} is no table that lasts (a view, perhaps): name the table that its rows come from"
    elif table.is_partition:
        yield f"{table.name} is a partition: name the table that it is a partition of"
    if not (table.is_readable and table.takes_triggers):
        yield f"eventsync's database user may not read {table.name} and add triggers: GRANT SELECT, TRIGGER on it"
    elif table.hides_rows:
        yield f"row security hides rows of {table.name} from eventsync's database user: give it BYPASSRLS"


def _missing(table: _Table, wanted: Mapping[str, str | None]) -> Iterator[str]:
    """Name the columns that `table` lacks, or has with another type than is `wanted` (None: any)."""
    for column, type_name in wanted.items():
        found = table.columns.get(column)
        if found is None:
            yield f"{table.name} has no column {column}: add it, or name another table"
        elif type_name is not None and found != type_name:
            yield f"{table.name}.{column} must be {type_name}, and is {found}: change it, or name another table"


def _already_filled(candidates: Sequence[_Candidate], rivals: Sequence[tuple[str, ...]]) -> Rejected:
    told = "; ".join(
        f"{candidate.table.name}: {', '.join(names)}"
        for candidate, names in zip(candidates, rivals, strict=True)
        if names
    )
    return Rejected(
        "already_filled",
        f"other triggers fill the queue already ({told}), so that each change would be sent twice: --replace drops them"
        " for eventsync's own; nothing was changed",
    )
