"""Builds what carries out runs: for the `worker` role, and for commands that carry one out themselves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp

from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.domain.runs import SyncType
from eventsync.postgres.absences import Absences
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import Database
from eventsync.postgres.records import RecordWriter
from eventsync.postgres.run_patients import RunPatients
from eventsync.postgres.runs import Runs
from eventsync.postgres.schedules import Schedules
from eventsync.stages.accounts import Account, OpenAccount
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.patient_refresh import PatientRefresher
from eventsync.stages.reading import Store
from eventsync.stages.reconcile import Reconciler
from eventsync.stages.run_report import RunReport
from eventsync.stages.sync_worker import Carrier
from eventsync.telemetry import Metrics
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import RecordVendor
from eventsync.vendorkit.waiting import LONGEST_WAIT_S, WaitingBudget
from eventsync.wiring.accounts import budget_of
from eventsync.wiring.metered import MeteredBudget


@dataclass(frozen=True, slots=True)
class RunAccounts:
    """Opens connections' accounts at their vendors, each for one run, within the budget of its API key.

    `pause` is how the budget waits for its next place, given in seconds.
    """

    database: Database
    vendors: Mapping[str, RecordVendor]
    http: aiohttp.ClientSession
    clock: Clock
    metrics: Metrics | None = None
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    def open(self, connection: Connection, sync_type: SyncType) -> Account:
        """Open the account for a run. Only a backfill waits for the day's calls, however many days that takes."""
        return self.open_waiting(connection, math.inf if sync_type is SyncType.BACKFILL else LONGEST_WAIT_S)

    def open_waiting(self, connection: Connection, longest_wait_s: float) -> Account:
        """Open the account; a place in the budget that is farther than `longest_wait_s` is not waited for."""
        ledger = budget_of(self.database, connection, self.clock)
        spent = ledger if self.metrics is None else MeteredBudget(ledger, connection.vendor, self.metrics)
        budget = WaitingBudget(spent, longest_wait_s=longest_wait_s, pause=self.pause)
        http = VendorHttp(self.http, budget, longest_refusal_s=LONGEST_WAIT_S, now=self.clock)

        async def calls_left() -> int | None:
            return (await ledger.report(self.clock())).left_today

        return Account(self.vendors[connection.vendor].client(connection, http), budget, calls_left)


def make_store(database: Database, keyring: Keyring, metrics: Metrics, clock: Clock) -> Store:
    """Make the place where what runs read goes."""
    return Store(database, RecordWriter(keyring), Runs(database), metrics, clock)


def make_carriers(
    store: Store, directory: ConnectionDirectory, vendors: Mapping[str, RecordVendor], open_account: OpenAccount
) -> Mapping[SyncType, Carrier]:
    """Make what carries out the runs of each type."""
    reconciler = make_reconciler(store, directory, vendors, open_account)
    carriers: dict[SyncType, Carrier] = dict.fromkeys(SyncType, reconciler)
    carriers[SyncType.MANUAL_PATIENT] = PatientRefresher(
        store, Coverage(store.database), directory, vendors, open_account
    )
    return carriers


def make_reconciler(
    store: Store, directory: ConnectionDirectory, vendors: Mapping[str, RecordVendor], open_account: OpenAccount
) -> Reconciler:
    """Make what carries out the runs of every type but a single patient's."""
    database, coverage = store.database, Coverage(store.database)
    report = RunReport(database, RunPatients(database), coverage, Schedules(database), store.clock)
    return Reconciler(store, coverage, Absences(database), report, directory, vendors, open_account)
