"""A connection's account at its vendor: the budget that its API key shares with every other process."""

from __future__ import annotations

from eventsync.crypto import fingerprint
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.database import Database


def budget_of(database: Database, connection: Connection, clock: Clock) -> PostgresBudget:
    """Open the ledger of the connection's API key."""
    limits = BudgetLimits(connection.calls_per_minute, connection.calls_per_day)
    return PostgresBudget(database, fingerprint(connection.api_key), limits, clock)
