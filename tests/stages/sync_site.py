"""A practice at the pretend vendor, connected to a real database, with the parts that carry out its runs.

Time stands still until a test moves it: product and vendor share one clock, and what waits for a budget moves it on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import orjson

from e2e.sandbox_truth import appointment_rows, client_rows, expected_appointments, expected_clients
from eventsync.bus.memory import MemoryBus
from eventsync.crypto import Keyring, fingerprint
from eventsync.domain.connections import Connection, OrganizationId
from eventsync.domain.runs import Run, RunRequest, SyncType
from eventsync.postgres.absences import Absences
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import Database
from eventsync.postgres.run_patients import RunPatients
from eventsync.postgres.runs import RunLease, Runs
from eventsync.postgres.schedules import Schedules
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.sandbox import QuotaLimits, RunningSandbox, Sandbox, SandboxOptions, ScriptedCall, serve
from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.vendor import IntakeQVendor
from eventsync.sandbox.vendor import Effect
from eventsync.stages.accounts import Account
from eventsync.stages.reading import Store
from eventsync.stages.reconcile import Reconciler
from eventsync.stages.run_report import RunReport
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.waiting import WaitingBudget
from eventsync.vendors import load_vendors, record_vendors
from stages.spine import Spine

LEASE = timedelta(minutes=5)
NO_QUOTA = QuotaLimits(per_minute=None, per_day=None)
VENDORS = record_vendors(load_vendors())


class SiteClock:
    """The sandbox's clock, as the product reads it."""

    def __init__(self, clock: SandboxClock) -> None:
        self.sandbox = clock

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.sandbox.now_ms() / 1000, UTC)

    def advance(self, **span: float) -> None:
        """Let a span of time go by, given as timedelta takes it."""
        self.sandbox.advance(timedelta(**span) // timedelta(milliseconds=1))


@dataclass(slots=True)
class SyncSite:
    """One practice and its copy."""

    pool: Database
    keyring: Keyring
    running: RunningSandbox
    connection: Connection
    clock: SiteClock
    http: aiohttp.ClientSession
    spine: Spine

    @property
    def sandbox(self) -> Sandbox:
        """The pretend vendor."""
        return self.running.sandbox

    @property
    def owner_id(self) -> OrganizationId:
        """Whose connection it is."""
        return self.connection.organization_id

    @property
    def runs(self) -> Runs:
        """The store of runs."""
        return Runs(self.pool)

    @property
    def calls(self) -> int:
        """How many calls the vendor has seen."""
        return sum(self.sandbox.stats.api_calls.values())

    @property
    def practice(self) -> Practice:
        """The vendor's own data."""
        assert isinstance(self.sandbox.vendor, IntakeQVendor)
        return self.sandbox.vendor.practice

    def ms(self, **span: float) -> int:
        """Tell the time a span from now, given as timedelta takes it, in Unix milliseconds."""
        return int((self.clock() + timedelta(**span)).timestamp() * 1000)

    def script(self, route: str, **what: Any) -> ScriptedCall:
        """Put a call into the vendor's script."""
        return self.sandbox.script.add(ScriptedCall(route=route, **what))

    async def sync(self, sync_type: SyncType = SyncType.AUTOMATED_DAILY, **options: Any) -> Run:
        """Ask for a run and carry it out to its end."""
        return await self.carry_out(await self.lease(sync_type, **options))

    async def carry_out(self, lease: RunLease) -> Run:
        """Carry out a leased run to its end."""
        end = await self.reconciler().run(lease)
        return await self.runs.end(lease, end, self.clock())

    async def lease_again(self) -> RunLease:
        """Let the lease of the run that goes on be over, and lease it as another worker."""
        self.clock.advance(minutes=6)
        await self.runs.rescue(self.clock())
        lease = await self.runs.claim(uuid4(), self.clock(), self.clock() + LEASE)
        assert lease is not None
        return lease

    async def require_true_copy(self, database: asyncpg.Connection) -> None:
        """Fail unless what lives in the copy is what lives at the vendor, field by field."""
        told = expected_appointments(self.sandbox.truth("appointment"))
        assert _living(await appointment_rows(database)) == _living(told)
        assert _living(await client_rows(database)) == _living(expected_clients(self.sandbox.truth("client")))

    async def lease(
        self, sync_type: SyncType = SyncType.AUTOMATED_DAILY, *, organization_id: UUID | None = None, **options: Any
    ) -> RunLease:
        """Ask for a run and lease it."""
        for_whom = OrganizationId(organization_id or self.owner_id)
        request = RunRequest(sync_type, self.connection.id, for_whom, "test", options=options)
        run, _ = await self.runs.request(request, self.clock())
        lease = await self.runs.claim(uuid4(), self.clock(), self.clock() + LEASE, run_id=run.id)
        assert lease is not None
        return lease

    def reconciler(self) -> Reconciler:
        """Make what carries out runs, as another process would."""
        runs, coverage = self.runs, Coverage(self.pool)
        store = Store(self.pool, self.spine.writer, runs, self.spine.metrics, self.clock)
        report = RunReport(self.pool, RunPatients(self.pool), coverage, Schedules(self.pool), self.clock)
        return Reconciler(
            store, coverage, Absences(self.pool), report, self.spine.directory, VENDORS, self.open_account
        )

    def open_account(self, connection: Connection, _sync_type: SyncType) -> Account:
        """Open the account at the sandbox, within the connection's budget; waiting moves the clock."""

        async def pause(seconds: float) -> None:
            self.clock.advance(seconds=seconds)

        limits = BudgetLimits(connection.calls_per_minute, connection.calls_per_day)
        ledger = PostgresBudget(self.pool, fingerprint(connection.api_key), limits, self.clock)
        budget = WaitingBudget(ledger, pause=pause)
        http = VendorHttp(self.http, budget, retry_base_s=0.001, longest_refusal_s=130.0, now=self.clock)

        async def calls_left() -> int | None:
            return (await ledger.report(self.clock())).left_today

        return Account(VENDORS[connection.vendor].client(connection, http), budget, calls_left)

    async def hear(self, effect: Effect) -> None:
        """Receive the webhooks of what the vendor did, and apply them."""
        await self.spine.apply(*[orjson.loads(hook.body) for hook in effect.webhooks])


def _living(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {external_id: row for external_id, row in rows.items() if not row["deleted"]}


@asynccontextmanager
async def open_site(
    pool: Database,
    keyring: Keyring,
    *,
    clients: int = 20,
    appointments: int = 60,
    settings: dict[str, str] | None = None,
    zone: str = "America/Denver",
    noon: datetime | None = None,
    **options: Any,
) -> AsyncIterator[SyncSite]:
    """Make a practice and connect it; nothing has been read of it yet. `noon` is when, today's in Denver by default."""
    noon = noon or datetime.combine(datetime.now(UTC).date(), time(18), UTC)
    sandbox_clock = SandboxClock(int(noon.timestamp() * 1000), speed=0)
    clock = SiteClock(sandbox_clock)
    chosen: dict[str, Any] = {"quota": NO_QUOTA, "clock": sandbox_clock} | options
    async with (
        serve(SandboxOptions(clients=clients, appointments=appointments, time_zone=zone, **chosen)) as running,
        aiohttp.ClientSession() as http,
    ):
        connection = await _connect(pool, keyring, running, clock, zone, settings)
        spine = Spine(pool, keyring, MemoryBus(), [connection.id])
        spine.connections = {connection.id: connection}
        spine.clock = clock  # type: ignore[assignment]  # both are moved by hand, this one with the vendor's
        clock.advance(minutes=10)
        yield SyncSite(pool, keyring, running, connection, clock, http, spine)


async def _connect(
    pool: Database,
    keyring: Keyring,
    running: RunningSandbox,
    clock: SiteClock,
    zone: str,
    settings: dict[str, str] | None,
) -> Connection:
    organization = await Organizations(pool).add("Test Practice", None, clock())
    connections = Connections(pool, keyring, VENDORS)
    new = NewConnection(
        organization_id=organization.id,
        vendor="intakeq",
        api_key=running.api_key,
        base_url=running.api_url,
        practice_id=running.practice_id,
        timezone=zone,
        settings={"calls_per_minute": "1000000", "calls_per_day": "unlimited"} if settings is None else settings,
    )
    added = await connections.add(new, clock())
    connection = await connections.load_connection(added.id)
    assert connection is not None
    return connection
