"""Builds what carries out runs in one process: a worker of the `worker` role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsync.domain.connections import Connection
from eventsync.domain.runs import SyncType
from eventsync.stages.accounts import Account
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.sync_worker import SyncWorker
from eventsync.supervisor import Worker
from eventsync.wiring.accounts import budget_of
from eventsync.wiring.reconciling import RunAccounts, make_carriers, make_store

if TYPE_CHECKING:  # the process makes this
    from eventsync.wiring.process import Process

_RUNS_AT_ONCE = 8  # mostly waiting for a vendor: a person's refresh must find a place beside the daily runs


def make_sync_worker(process: Process, directory: ConnectionDirectory) -> Worker:
    """Make the worker; the budgets that its runs spend are shown with the process's others."""
    accounts = RunAccounts(process.database, process.record_vendors, process.http, process.clock, process.metrics)

    def open_account(connection: Connection, sync_type: SyncType) -> Account:
        process.budgets[str(connection.number)] = budget_of(process.database, connection, process.clock)
        return accounts.open(connection, sync_type)

    store = make_store(process.database, process.options.keyring, process.metrics, process.clock)
    carriers = make_carriers(store, directory, process.record_vendors, open_account)
    return SyncWorker(
        store.runs, carriers, process.listener, process.clock, metrics=process.metrics, at_once=_RUNS_AT_ONCE
    )
