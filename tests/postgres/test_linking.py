"""Linking clients to patients that an organization already knew: deterministic, undoable, never across a border."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
NOTHING = LinkReport(linked=0, ended=0, ambiguous=0)


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


@pytest.fixture
async def practice(database: asyncpg.Connection, pool: Database, keyring: Keyring) -> Practice:
    return await open_practice(database, pool, keyring)


async def test_a_client_and_a_local_patient_with_one_email_become_one(practice: Practice) -> None:
    local = await practice.local_patient(" Test.12@Example.test ")
    derived = await practice.client("12", "test.12@example.TEST", phone="+1 555 0100")
    await practice.appointment("a1", "12")
    await practice.invoice("i1", "12")
    assert await practice.owners() == {derived}
    assert await practice.link() == LinkReport(linked=1, ended=0, ambiguous=0)
    assert await practice.owners() == {local}
    seen = await practice.patient(local)
    assert (seen["status"], seen["origin"], seen["intakeq_client_id"]) == ("active", "local", "12")
    assert (seen["first_name"], seen["phone"]) == ("Vendor", "+1 555 0100")
    assert (await practice.patient(derived))["status"] == "linked"
    assert await practice.link() == NOTHING


async def test_what_comes_after_the_link_belongs_to_the_local_patient(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.appointment("a1", "12")
    await practice.invoice("i1", "12")
    await practice.client("12", "a@example.test", phone="+1 555 0199")
    assert await practice.owners() == {local}
    assert (await practice.patient(local))["phone"] == "+1 555 0199"


@pytest.mark.parametrize("email", [None, "", "  "])
async def test_nobody_is_linked_without_an_email(practice: Practice, email: str | None) -> None:
    await practice.local_patient(email)
    await practice.client("12", email)
    assert await practice.link() == NOTHING


async def test_two_clients_with_one_email_are_ambiguous_also_over_two_connections(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test", connection=0)
    await practice.client("12", "a@example.test", connection=1)
    assert await practice.link() == LinkReport(linked=0, ended=0, ambiguous=1)


async def test_two_local_patients_with_one_email_are_ambiguous(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.local_patient("A@example.test")
    await practice.client("12", "a@example.test")
    assert await practice.link() == LinkReport(linked=0, ended=0, ambiguous=1)


async def test_clients_are_never_joined_to_each_other(practice: Practice) -> None:
    first = await practice.client("12", "a@example.test", connection=0)
    second = await practice.client("12", "a@example.test", connection=1)
    assert await practice.link() == NOTHING
    assert first != second
    assert [(await practice.patient(entry))["status"] for entry in (first, second)] == ["active", "active"]


async def test_organizations_never_meet(
    practice: Practice, database: asyncpg.Connection, pool: Database, keyring: Keyring
) -> None:
    other = await open_practice(database, pool, keyring)
    await other.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    assert await practice.link() == NOTHING


async def test_an_ambiguity_that_appears_later_ends_the_link_and_gives_everything_back(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    derived = await practice.client("12", "a@example.test")
    await practice.appointment("a1", "12")
    await practice.link()
    await practice.client("13", "a@example.test")
    assert await practice.link() == LinkReport(linked=0, ended=1, ambiguous=1)
    (link,) = await practice.links.links(practice.organization_id)
    assert link.ended_because == "ambiguous"
    assert await practice.owners() == {derived}
    assert (await practice.patient(derived))["status"] == "active"
    assert (await practice.patient(derived))["intakeq_client_id"] == "12"
    seen = await practice.patient(local)
    assert (seen["first_name"], seen["status"], seen["intakeq_client_id"]) == ("Local", "active", None)


async def test_a_link_comes_back_when_the_ambiguity_is_gone(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("13", "a@example.test")
    await practice.link()
    await practice.client("13", "b@example.test")
    assert await practice.link() == LinkReport(linked=1, ended=0, ambiguous=0)
    assert await practice.standing() == {(practice.connections[0], "12"): local}


async def test_a_clients_changed_email_keeps_the_link_until_another_has_a_claim(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("12", "new@example.test")
    assert await practice.link() == NOTHING
    assert (await practice.patient(local))["email"] == "new@example.test"
    await practice.client("13", "a@example.test")
    assert await practice.link() == LinkReport(linked=1, ended=1, ambiguous=0)
    assert await practice.standing() == {(practice.connections[0], "13"): local}


async def test_a_local_patient_with_the_clients_new_email_has_a_claim(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("12", "new@example.test")
    newer = await practice.local_patient("new@example.test")
    await practice.link()
    assert await practice.standing() == {(practice.connections[0], "12"): newer}


async def test_a_deleted_client_leaves_its_place_to_the_one_that_lives(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    gone = await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("12", "a@example.test", deleted=True)
    await practice.client("13", "a@example.test")
    assert await practice.link() == LinkReport(linked=1, ended=1, ambiguous=0)
    assert await practice.standing() == {(practice.connections[0], "13"): local}
    assert (await practice.patient(gone))["status"] == "archived"
    assert (await practice.patient(local))["status"] == "active"


async def test_what_was_undone_is_not_done_again(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    derived = await practice.client("12", "a@example.test")
    await practice.appointment("a1", "12")
    await practice.link()
    (link,) = await practice.links.links(practice.organization_id)
    assert await practice.links.undo(link.id, practice.organization_id, NOW)
    assert await practice.owners() == {derived}
    assert (await practice.patient(local))["first_name"] == "Local"
    assert await practice.link() == NOTHING
    assert not await practice.links.undo(link.id, practice.organization_id, NOW)


async def test_another_organization_can_neither_see_nor_undo_a_link(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    (link,) = await practice.links.links(None)
    stranger = OrganizationId(uuid4())
    assert await practice.links.links(stranger) == []
    assert not await practice.links.undo(link.id, stranger, NOW)
    assert await practice.standing() != {}


async def test_affiliations_follow_the_link_where_they_do_not_clash_and_return_when_it_ends(
    practice: Practice, database: asyncpg.Connection
) -> None:
    shared, theirs = await insert_organization(database), await insert_organization(database)
    local = await practice.local_patient("a@example.test", partner=shared)
    derived = await practice.client("12", "a@example.test")
    await practice.affiliate(derived, shared)
    await practice.affiliate(derived, theirs)
    await practice.link()
    assert await practice.partners_of(local) == {shared, theirs}
    assert await practice.partners_of(derived) == {shared}
    (link,) = await practice.links.links(None)
    await practice.links.undo(link.id, None, NOW)
    assert await practice.partners_of(local) == {shared}
    assert await practice.partners_of(derived) == {shared, theirs}


async def test_a_record_written_while_its_client_was_being_linked_is_pointed_right_by_the_next_run(
    practice: Practice, database: asyncpg.Connection
) -> None:
    local = await practice.local_patient("a@example.test")
    derived = await practice.client("12", "a@example.test")
    await practice.link()
    await practice.appointment("a1", "12")
    await database.execute("UPDATE appointments SET patient_id = $1", derived)
    await practice.link()
    assert await practice.owners() == {local}


async def test_missing_client_ids_are_filled_in_from_living_clients(
    practice: Practice, database: asyncpg.Connection
) -> None:
    living, gone = await practice.client("12", "a@example.test"), await practice.client("13", None, deleted=True)
    await database.execute("UPDATE patients SET intakeq_client_id = NULL")
    assert await practice.links.backfill_client_ids(NOW) == 1
    assert (await practice.patient(living))["intakeq_client_id"] == "12"
    assert (await practice.patient(gone))["intakeq_client_id"] is None
    assert await practice.links.backfill_client_ids(NOW) == 0


EMAILS = st.sampled_from(["a@example.test", "A@example.test", "b@example.test", None])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client (with its number) or a local patient (without) that becomes known; a client may be deleted at once."""

    email: str | None
    client: str | None = None
    connection: int = 0
    deleted: bool = False


CLIENTS = st.lists(
    st.builds(
        Arrival,
        EMAILS,
        st.sampled_from(["1", "2", "3"]),
        connection=st.integers(0, 1),
        deleted=st.sampled_from([0, 0, 1]),
    ),
    max_size=4,
    unique_by=lambda arrival: (arrival.client, arrival.connection),
)
LOCALS = st.lists(st.builds(Arrival, EMAILS), max_size=3)


def expected_links(arrivals: Sequence[Arrival]) -> set[tuple[int, str, int]]:
    """The rule, said again without SQL: (connection, client, place of the local patient) of every link."""
    expected = set()
    for email in {arrival.email.lower() for arrival in arrivals if arrival.email}:
        sharing = [arrival for arrival in arrivals if (arrival.email or "").lower() == email and not arrival.deleted]
        clients = [arrival for arrival in sharing if arrival.client is not None]
        locals_ = [place for place, arrival in enumerate(arrivals) if arrival in sharing and arrival.client is None]
        if len(clients) == 1 and len(locals_) == 1:
            expected.add((clients[0].connection, clients[0].client or "", locals_[0]))
    return expected


@given(clients=CLIENTS, locals_=LOCALS, seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_links_that_stand_depend_on_who_is_there_and_not_on_the_order_they_came_in(
    database: asyncpg.Connection,
    pool: Database,
    keyring: Keyring,
    clients: list[Arrival],
    locals_: list[Arrival],
    seed: int,
) -> None:
    practice, shuffler = await open_practice(database, pool, keyring), random.Random(seed)
    arrivals = [*clients, *locals_]
    steps = [(place, step) for place, arrival in enumerate(arrivals) for step in range(3 if arrival.client else 1)]
    shuffler.shuffle(steps)
    local_ids: dict[int, UUID] = {}
    alive: set[int] = set()
    for place, _ in steps:  # a client appears, gets an appointment, and perhaps is deleted: linking may run in between
        arrival = arrivals[place]
        if arrival.client is None:
            local_ids[place] = await practice.local_patient(arrival.email)
        elif place not in alive:
            await practice.client(arrival.client, arrival.email, connection=arrival.connection)
            alive.add(place)
        else:
            await practice.appointment(f"a{place}", arrival.client, connection=arrival.connection)
        if shuffler.random() < 0.4:
            await practice.link()
    for place in shuffler.sample(sorted(alive), len(alive)):
        if arrivals[place].deleted:
            await practice.client(
                arrivals[place].client or "", arrivals[place].email, connection=arrivals[place].connection, deleted=True
            )
            if shuffler.random() < 0.4:
                await practice.link()
    await practice.link()
    standing = await practice.standing()
    places = {patient_id: place for place, patient_id in local_ids.items()}
    found = {
        (practice.connections.index(connection_id), client, places[patient_id])
        for (connection_id, client), patient_id in standing.items()
    }
    assert found == expected_links(arrivals)
    await check_that_records_follow(practice, standing)
    again = await practice.link()
    assert (again.linked, again.ended) == (0, 0)


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
