"""What a refresh of one patient stands on (the patient, its clients), and what its partial lists leave behind.

A list of one client's appointments proves no absence: what it lacks becomes an absence candidate at most, which a
later complete list confirms or clears.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

_UNKNOWN_NAME = "Unknown"


@dataclass(frozen=True, slots=True)
class _Sql:
    load_patient: str
    load_clients: str
    rule_out_clients: str
    find_of_others: str
    find_unlisted: str
    suspect: str
    clear: str
    mark_synced: str


SQL = load_statements(_Sql, "patient_refreshes.sql")


@dataclass(frozen=True, slots=True)
class HeldClient:
    """A client of the connection, as it is held; `name` is None where neither part of it is known."""

    external_id: str
    email: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class HeldPatient:
    """A patient and its clients on one connection, living ones first.

    `shares_email` says that the organization knows somebody else by the same e-mail, who is not of this connection.
    """

    id: UUID
    email: str | None = field(repr=False)
    shares_email: bool
    clients: tuple[HeldClient, ...]


@dataclass(frozen=True, slots=True)
class ClientsWindow:
    """Some clients' appointments that begin in [window_from, window_to)."""

    connection_id: ConnectionId
    client_ids: Collection[str]
    window_from: datetime
    window_to: datetime


async def load_patient(
    database: Database,
    connection_id: ConnectionId,
    patient_id: UUID,
    organization_id: OrganizationId | None,
    today: date,
) -> HeldPatient | None:
    """Load the patient whom people see under this id.

    None where it is not the patient of the connection's owner, or nobody whom the organization (None: an admin) owns
    or follows today.
    """
    async with database.session() as session:
        patient = await session.fetchrow(SQL.load_patient, connection_id, patient_id, organization_id, today)
        if patient is None:
            return None
        clients = await session.fetch(SQL.load_clients, connection_id, patient["id"])
    return HeldPatient(
        id=patient["id"],
        email=patient["email"],
        shares_email=patient["shares_email"],
        clients=tuple(
            HeldClient(row["external_id"], row["email"], full_name(row["first_name"], row["last_name"]))
            for row in clients
        ),
    )


async def ruled_out(
    database: Database, connection_id: ConnectionId, patient_id: UUID, client_ids: Collection[str]
) -> set[str]:
    """Tell which of these clients cannot be the patient: they are another's, or a person has undone that link."""
    async with database.session() as session:
        rows = await session.fetch(SQL.rule_out_clients, connection_id, list(client_ids), patient_id)
    return {row["external_id"] for row in rows}


async def appointments_of_others(
    database: Database, connection_id: ConnectionId, external_ids: Collection[str], client_ids: Collection[str]
) -> set[str]:
    """Tell which of these appointments are held as those of clients other than `client_ids`."""
    async with database.session() as session:
        rows = await session.fetch(SQL.find_of_others, connection_id, list(external_ids), list(client_ids))
    return {row["external_id"] for row in rows}


async def find_unlisted(session: Session, window: ClientsWindow, listed: Collection[str]) -> list[str]:
    """Name the living appointments of `window` that are held and are not among `listed`."""
    of_clients = window.connection_id, list(window.client_ids)
    rows = await session.fetch(SQL.find_unlisted, *of_clients, window.window_from, window.window_to, list(listed))
    return [row["external_id"] for row in rows]


async def suspect_absences(
    session: Session, connection_id: ConnectionId, external_ids: Collection[str], read_began_at: datetime
) -> None:
    """Let a later look decide on appointments that a list lacked; not on those that changed about its read."""
    await session.execute(SQL.suspect, connection_id, list(external_ids), read_began_at)


async def clear_suspicions(
    session: Session, connection_id: ConnectionId, external_ids: Collection[str], read_began_at: datetime
) -> None:
    """Note that a read saw these appointments, or was told of their deletion: no look is needed any more."""
    await session.execute(SQL.clear, connection_id, list(external_ids), read_began_at)


async def mark_synced(session: Session, patient_id: UUID, read_began_at: datetime, today: date, now: datetime) -> None:
    """Tell everyone who follows the patient today as of when they see its appointments."""
    await session.execute(SQL.mark_synced, patient_id, read_began_at, now, today)


def full_name(first_name: str | None, last_name: str | None) -> str | None:
    """Put a name together as the vendor has it, without what stands for a missing part."""
    return " ".join(part for part in (first_name, last_name) if part and part != _UNKNOWN_NAME) or None
