"""An organization with two connections, for tests of linking: what is known of its clients, and where records point."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

import asyncpg

from eventsync.crypto import Keyring
from eventsync.domain.changes import Authority, Delete, EntityRef, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.records import (
    Appointment,
    AppointmentStatus,
    Document,
    Patient,
    RecordKind,
    content_hash,
    patient_id_of,
)
from eventsync.postgres.database import Database
from eventsync.postgres.linking import LinkReport, PatientLinks
from eventsync.postgres.records import EventChange, RecordWriter

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
START = datetime(2026, 3, 9, 9, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Practice:
    """An organization with two connections, and the ways in which a test changes what is known of it."""

    database: asyncpg.Connection
    pool: Database
    writer: RecordWriter
    links: PatientLinks
    organization_id: OrganizationId
    connections: tuple[ConnectionId, ConnectionId]
    positions: count[int]

    async def local_patient(self, email: str | None, name: str = "Local", *, partner: UUID | None = None) -> UUID:
        patient_id = uuid4()
        await self.database.execute(
            "INSERT INTO patients (id, organization_id, first_name, last_name, email, origin)"
            " VALUES ($1, $2, $3, 'Test', $4, 'local')",
            *(patient_id, self.organization_id, name, email),
        )
        await self.database.execute(
            "INSERT INTO local_patients (patient_id, organization_id, first_name, last_name, email, created_at)"
            " VALUES ($1, $2, $3, 'Test', $4, $5)",
            *(patient_id, self.organization_id, name, email, NOW),
        )
        if partner is not None:
            await self.affiliate(patient_id, partner)
        return patient_id

    async def affiliate(self, patient_id: UUID, partner: UUID) -> None:
        await self.database.execute(
            "INSERT INTO patient_organization_affiliations (patient_id, organization_id, start_date)"
            " VALUES ($1, $2, $3)",
            *(patient_id, partner, date(2026, 1, 1)),
        )

    async def client(
        self,
        external_id: str,
        email: str | None,
        *,
        connection: int = 0,
        deleted: bool = False,
        phone: str | None = None,
    ) -> UUID:
        """Let the vendor say what a client looks like now; answer its own patient's id."""
        ref = EntityRef(self.connections[connection], RecordKind.PATIENT, external_id)
        content = Patient("Vendor", "Client", email=email, phone=phone)
        version = self._version(content, deleted=deleted)
        await self.write(Delete(ref, version, content) if deleted else Upsert(ref, version, content))
        return patient_id_of(ref.connection_id, external_id)

    async def appointment(self, external_id: str, client: str, *, connection: int = 0) -> None:
        content = Appointment(
            status=AppointmentStatus.CONFIRMED,
            vendor_status="Confirmed",
            start_time=START,
            end_time=START + timedelta(minutes=50),
            client_external_id=client,
        )
        ref = EntityRef(self.connections[connection], RecordKind.APPOINTMENT, external_id)
        await self.write(Upsert(ref, self._version(content), content))

    async def invoice(self, external_id: str, client: str) -> None:
        content = Document("paid", "Invoice", client, START, b"{}")
        ref = EntityRef(self.connections[0], RecordKind.INVOICE, external_id)
        await self.write(Upsert(ref, self._version(content), content))

    async def write(self, change: Upsert | Delete) -> None:
        async with self.pool.transaction() as session:
            await self.writer.write(session, [EventChange(None, change)], NOW)

    async def link(self) -> LinkReport:
        return await self.links.link_by_email(NOW)

    async def standing(self) -> dict[tuple[ConnectionId, str], UUID]:
        links = await self.links.links(self.organization_id)
        return {(link.connection_id, link.external_id): link.patient_id for link in links if link.ended_at is None}

    async def patient(self, patient_id: UUID) -> asyncpg.Record:
        return await self.database.fetchrow("SELECT * FROM patients WHERE id = $1", patient_id)

    async def owners(self) -> set[UUID | None]:
        """Whose patient's the organization's appointments and documents are."""
        rows = await self.database.fetch(
            "SELECT patient_id FROM appointments WHERE connection_id = ANY($1)"
            " UNION SELECT patient_id FROM documents WHERE connection_id = ANY($1)",
            list(self.connections),
        )
        return {row["patient_id"] for row in rows}

    async def partners_of(self, patient_id: UUID) -> set[UUID]:
        rows = await self.database.fetch(
            "SELECT organization_id FROM patient_organization_affiliations WHERE patient_id = $1", patient_id
        )
        return {row["organization_id"] for row in rows}

    def _version(self, content: Patient | Appointment | Document, *, deleted: bool = False) -> Version:
        position = 1_772_000_000_000 + next(self.positions)
        return Version(Authority.RECORD, position, deleted, Source.API, position, 1, content_hash(content))


async def insert_organization(database: asyncpg.Connection) -> UUID:
    found: UUID = await database.fetchval("INSERT INTO organizations (name) VALUES ('Test Practice') RETURNING id")
    return found


async def open_practice(database: asyncpg.Connection, pool: Database, keyring: Keyring) -> Practice:
    organization_id = await insert_organization(database)
    rows = await database.fetch(
        "INSERT INTO connections (organization_id, vendor, base_url, api_key_sealed)"
        " SELECT $1, 'intakeq', 'http://127.0.0.1:9', '' FROM generate_series(1, 2) RETURNING id",
        organization_id,
    )
    connections = (ConnectionId(rows[0]["id"]), ConnectionId(rows[1]["id"]))
    writer, links = RecordWriter(keyring), PatientLinks(pool)
    return Practice(database, pool, writer, links, OrganizationId(organization_id), connections, count(1))


async def check_that_records_follow(practice: Practice, standing: dict[tuple[ConnectionId, str], UUID]) -> None:
    rows = await practice.database.fetch(
        "SELECT connection_id, client_external_id AS client, patient_id FROM appointments"
        " WHERE connection_id = ANY($1)",
        list(practice.connections),
    )
    for row in rows:
        key = row["connection_id"], row["client"]
        assert row["patient_id"] == standing.get(key, patient_id_of(*key))
    lost = await practice.database.fetchval(
        "SELECT count(*) FROM patients p WHERE p.organization_id = $1 AND (p.status = 'linked') <>"
        " EXISTS (SELECT 1 FROM patient_links l WHERE l.derived_patient_id = p.id AND l.ended_at IS NULL)",
        practice.organization_id,
    )
    assert lost == 0
