"""Linking by e-mail: a step of its own that joins a vendor's client to a patient whom the organization already knew.

The links that stand are a function of the clients and local patients that there are, whatever order they came in;
only a client whose e-mail changed after it was linked keeps its link, until somebody else has a claim. Clients are
never joined to each other, and organizations never meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.postgres.database import Database, Session
from eventsync.postgres.record_rows import PATIENTS
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    lock: str
    find_contested: str
    find_linkable: str
    count_ambiguous: str
    insert_links: str
    end_links: str
    find_live_link: str
    point_identities: str
    mark_linked: str
    redraw_local: str
    move_affiliations: str
    return_affiliations: str
    point_appointments: str
    point_documents: str
    backfill_client_ids: str
    list_links: str


SQL = load_statements(_Sql, "linking.sql")


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What one run did: clients linked, links ended, and e-mails that now belong to several."""

    linked: int
    ended: int
    ambiguous: int


@dataclass(frozen=True, slots=True)
class PatientLink:
    """A client joined to a patient; `ended_because` is `ambiguous`, `deleted` or `undone`, None while it stands."""

    id: int
    connection_id: ConnectionId
    external_id: str
    patient_id: UUID
    method: str
    linked_at: datetime
    ended_at: datetime | None
    ended_because: str | None


class PatientLinks:
    """`patient_links`, and what follows from them in identities, patients, appointments, documents, affiliations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def link_by_email(self, now: datetime) -> LinkReport:
        """End the links that no longer hold, make those that do; a second run in a row does nothing."""
        async with self._database.transaction() as session:
            await session.execute(SQL.lock)
            contested = await session.fetch(SQL.find_contested)
            await _end(session, [(row["id"], row["because"]) for row in contested], now)
            linkable = await session.fetch(SQL.find_linkable)
            await _link(session, linkable, now)
            await _point_records(session, now)
            ambiguous = await session.fetchval(SQL.count_ambiguous)
        return LinkReport(len(linkable), len(contested), ambiguous)

    async def undo(self, link_id: int, organization_id: OrganizationId | None, now: datetime) -> bool:
        """Give a linked client its own patient back, for good: the same two are not linked again by themselves.

        False where the organization (None: anyone) has no such standing link.
        """
        async with self._database.transaction() as session:
            await session.execute(SQL.lock)
            if await session.fetchval(SQL.find_live_link, link_id, organization_id) is None:
                return False
            await _end(session, [(link_id, "undone")], now)
            await _point_records(session, now)
        return True

    async def backfill_client_ids(self, now: datetime) -> int:
        """Give patients with a living client their missing `intakeq_client_id`; tell how many."""
        async with self._database.session() as session:
            return int((await session.execute(SQL.backfill_client_ids, now)).rpartition(" ")[2])

    async def links(
        self,
        organization_id: OrganizationId | None,
        *,
        patient_id: UUID | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[PatientLink]:
        """List links, ended ones included, the latest first."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_links, organization_id, patient_id, before_id, limit)
        return [PatientLink(**dict(row)) for row in rows]


async def _end(session: Session, endings: Sequence[tuple[int, str]], now: datetime) -> None:
    if not endings:
        return
    ids, reasons = [link_id for link_id, _ in endings], [because for _, because in endings]
    links = await session.fetch(SQL.end_links, ids, reasons, now)
    await _point_identities(session, links, "derived_patient_id", now)
    await session.execute(SQL.redraw_local, [link["patient_id"] for link in links], now)
    await session.execute(SQL.return_affiliations, ids, now)


async def _link(session: Session, linkable: Sequence[Any], now: datetime) -> None:
    if not linkable:
        return
    columns = [
        [row[name] for row in linkable] for name in ("connection_id", "external_id", "patient_id", "derived_patient_id")
    ]
    links = await session.fetch(SQL.insert_links, *columns, now)
    await _point_identities(session, links, "patient_id", now)
    await session.execute(SQL.mark_linked, [link["derived_patient_id"] for link in links], now)
    await session.execute(SQL.move_affiliations, [link["id"] for link in links], now)


async def _point_identities(session: Session, links: Sequence[Any], to: str, now: datetime) -> None:
    """Let clients belong to the patient in column `to`, and draw that patient anew."""
    connection_ids, external_ids = [link["connection_id"] for link in links], [link["external_id"] for link in links]
    await session.execute(SQL.point_identities, connection_ids, external_ids, [link[to] for link in links], now)
    await session.execute(PATIENTS.project, connection_ids, external_ids, now)


async def _point_records(session: Session, now: datetime) -> None:
    await session.execute(SQL.point_appointments, now)
    await session.execute(SQL.point_documents, now)
