"""One practice with one client to refresh, and what carries out a refresh of them within its three calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from eventsync.crypto import Keyring, fingerprint
from eventsync.domain.connections import Connection, OrganizationId
from eventsync.domain.records import RecordKind, patient_id_of, record_id_of
from eventsync.domain.runs import Run, RunRequest, SyncType
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease
from eventsync.sandbox.intakeq.records import Appointment, Client
from eventsync.sandbox.intakeq.vendor import IntakeQVendor
from eventsync.stages.accounts import Account
from eventsync.stages.patient_refresh import PatientRefresher
from eventsync.stages.reading import Store
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.waiting import WaitingBudget
from stages.sync_site import LEASE, VENDORS, SyncSite, open_site

EMAIL = "one@example.test"


@dataclass(slots=True)
class RefreshSite:
    """A practice, its copy, and one client of it, `client_id`."""

    site: SyncSite
    database: asyncpg.Connection
    client_id: str = ""

    @property
    def patient_id(self) -> UUID:
        """The client's own patient."""
        return patient_id_of(self.site.connection.id, self.client_id)

    @property
    def practice(self) -> Any:
        """The vendor's own data, to be made worse than any action makes it."""
        assert isinstance(self.site.sandbox.vendor, IntakeQVendor)
        return self.site.sandbox.vendor.practice

    def now_ms(self) -> int:
        """Tell the vendor's time, Unix milliseconds."""
        return self.site.sandbox.clock.now_ms()

    def act(self, name: str, **arguments: Any) -> str:
        """Let something happen at the practice that no webhook tells; answer the record's id."""
        return self.site.sandbox.act_unheard(name, **arguments).record_id

    def add_client(self, **profile: Any) -> str:
        """Add a client at the vendor."""
        return self.act("add_client", **profile)

    def book(self, *, client_id: str | None = None, days: float = 7) -> str:
        """Book an appointment so many days ahead."""
        start = self.site.clock() + timedelta(days=days)
        chosen = int(client_id or self.client_id)
        return self.act("book", client_id=chosen, start_ms=int(start.timestamp() * 1000), by="staff")

    def held_by_vendor(self, appointment_id: str) -> Appointment:
        """Look an appointment up at the vendor."""
        found: Appointment = self.practice.appointments[appointment_id]
        return found

    def client_at_vendor(self, client_id: str) -> Client:
        """Look a client up at the vendor."""
        found: Client = self.practice.clients[int(client_id)]
        return found

    async def lease(
        self, patient_id: UUID | None = None, organization_id: UUID | None = None, **options: Any
    ) -> RunLease:
        """Ask for a refresh and lease it."""
        site = self.site
        request = RunRequest(
            SyncType.MANUAL_PATIENT,
            site.connection.id,
            OrganizationId(organization_id or site.owner_id),
            "test",
            patient_id=patient_id or self.patient_id,
            options=options,
        )
        run, is_new = await site.runs.request(request, site.clock())
        assert is_new
        lease = await site.runs.claim(uuid4(), site.clock(), site.clock() + LEASE, run_id=run.id)
        assert lease is not None
        return lease

    async def refresh(self, patient_id: UUID | None = None, organization_id: UUID | None = None, **options: Any) -> Run:
        """Carry out a refresh to its end."""
        lease = await self.lease(patient_id, organization_id, **options)
        return await self.site.runs.end(lease, await self.refresher().run(lease), self.site.clock())

    def refresher(self, *, calls_per_minute: int = 1_000) -> PatientRefresher:
        """Make what carries out refreshes, as another process would."""
        site = self.site

        def open_account(connection: Connection, _sync_type: SyncType) -> Account:
            limits = BudgetLimits(calls_per_minute, None)
            ledger = PostgresBudget(site.pool, fingerprint(connection.api_key), limits, site.clock)
            budget = WaitingBudget(ledger, longest_wait_s=0.0)
            http = VendorHttp(site.http, budget, retry_base_s=0.0, timeout_s=5.0, now=site.clock)

            async def calls_left() -> int | None:
                return (await ledger.report(site.clock())).left_today

            return Account(VENDORS[connection.vendor].client(connection, http), budget, calls_left)

        store = Store(site.pool, site.spine.writer, site.runs, site.spine.metrics, site.clock)
        return PatientRefresher(store, Coverage(site.pool), site.spine.directory, VENDORS, open_account)

    def record_id(self, appointment_id: str) -> str:
        """Our own id of an appointment."""
        return str(record_id_of(self.site.connection.id, RecordKind.APPOINTMENT, appointment_id))

    async def appointment(self, appointment_id: str) -> Any:
        """Read an appointment's row."""
        return await self.database.fetchrow("SELECT * FROM appointments WHERE external_id = $1", appointment_id)

    async def held(self) -> set[str]:
        """Name the client's appointments that the copy holds as living."""
        rows = await self.database.fetch(
            "SELECT external_id FROM appointments WHERE client_external_id = $1 AND deleted_at IS NULL", self.client_id
        )
        return {row["external_id"] for row in rows}

    async def suspects(self) -> set[str]:
        """Name the appointments that wait for a second look."""
        rows = await self.database.fetch("SELECT external_id FROM absence_candidates WHERE kind = 'appointment'")
        return {row["external_id"] for row in rows}

    async def local_patient(self, email: str | None) -> UUID:
        """Let the owner know a patient whom no vendor has told of."""
        patient_id = uuid4()
        for table, key in (("patients", "id"), ("local_patients", "patient_id")):
            created = "origin" if table == "patients" else "created_at"
            value: Any = "local" if table == "patients" else self.site.clock()
            await self.database.execute(
                f"INSERT INTO {table} ({key}, organization_id, first_name, last_name, email, {created})"  # noqa: S608  # constants
                " VALUES ($1, $2, 'Local', 'Test', $3, $4)",
                *(patient_id, self.site.owner_id, email, value),
            )
        return patient_id

    async def stranger(self) -> UUID:
        """Add an organization that has nothing to do with the patient."""
        found: UUID = await self.database.fetchval(
            "INSERT INTO organizations (name) VALUES ('Test Stranger') RETURNING id"
        )
        return found

    async def partner(self, *, until: datetime | None = None) -> UUID:
        """Let another organization follow the client's patient."""
        partner = await self.stranger()
        today = self.site.clock().date()
        await self.database.execute(
            "INSERT INTO patient_organization_affiliations (patient_id, organization_id, start_date, end_date)"
            " VALUES ($1, $2, $3, $4)",
            *(self.patient_id, partner, today - timedelta(days=30), None if until is None else until.date()),
        )
        return partner


@asynccontextmanager
async def open_desk(pool: Database, keyring: Keyring, database: asyncpg.Connection) -> AsyncIterator[RefreshSite]:
    """Make a practice whose copy is whole, with a client of two appointments; an hour goes by."""
    async with open_site(pool, keyring, clients=3, appointments=10) as site:
        desk = RefreshSite(site, database)
        desk.client_id = desk.add_client(email=EMAIL, last_name="Test Client One")
        desk.book(days=7)
        desk.book(days=14)
        site.clock.advance(minutes=1)
        await site.sync()
        site.clock.advance(hours=1)
        site.sandbox.stats.api_calls.clear()
        yield desk


def actions(run: Run) -> dict[str, str]:
    """Tell what became of each appointment, as the run's row says."""
    return {entry["id"]: entry["syncAction"] for entry in run.metadata["appointments"]}
