"""Whose appointments a run has brought up to date: counted for its row, and noted with the affiliations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    count_patients: str
    mark_synced: str
    count_appointments: str


SQL = load_statements(_Sql, "run_patients.sql")


@dataclass(frozen=True, slots=True)
class Audience:
    """For whom a run is counted: a connection's owner and, where one asked, the partner that follows patients of it."""

    connection_id: ConnectionId
    owner_id: OrganizationId
    partner_id: OrganizationId | None


@dataclass(frozen=True, slots=True)
class PatientCounts:
    """`affiliated` patients in all; those of them that were `processed` and `failed`; `unaffiliated` ones processed.

    `unreachable` are the first affiliated patients whom no client id and no e-mail connects with the vendor.
    """

    affiliated: int
    processed: int
    failed: int
    unaffiliated: int
    unreachable: tuple[UUID, ...]
    organizations: int  # that follow them


@dataclass(frozen=True, slots=True)
class AppointmentCounts:
    """The appointments of an audience's patients, by what a run did to them; `deleted` ones are `updated` as well."""

    new: int
    updated: int
    unchanged: int
    deleted: int


class RunPatients:
    """The patients of a run."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(
        self, audience: Audience, today: date, *, read: Sequence[str] | None, spoiled: Sequence[str]
    ) -> PatientCounts:
        """Count them. `read` are the appointments that were read, None for all; `spoiled` those not understood."""
        key = audience.connection_id, audience.owner_id, audience.partner_id
        arguments = *key, today, None if read is None else list(read), list(spoiled) or None
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.count_patients, *arguments)
        return PatientCounts(
            row["affiliated"],
            row["processed"],
            row["failed"],
            row["unaffiliated"],
            tuple(row["unreachable"] or ()),
            row["organizations"],
        )

    async def mark_synced(self, audience: Audience, now: datetime, *, read: Sequence[str] | None) -> None:
        """Note at the affiliations when their patients' appointments were last read."""
        key = audience.connection_id, audience.owner_id, audience.partner_id
        async with self._database.session() as session:
            await session.execute(SQL.mark_synced, *key, now, None if read is None else list(read))

    async def count_appointments(
        self,
        audience: Audience,
        today: date,
        window: tuple[datetime, datetime],
        *,
        new: Sequence[str],
        updated: Sequence[str],
        deleted: Sequence[str],
    ) -> AppointmentCounts:
        """Count the appointments of the audience's patients among these, and those within `window` that stand."""
        key = audience.connection_id, audience.owner_id, audience.partner_id
        async with self._database.session() as session:
            row = await session.fetchrow(
                SQL.count_appointments, *key, today, list(new), list(updated), *window, list(deleted)
            )
        return AppointmentCounts(**dict(row))
