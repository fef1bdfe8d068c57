"""A connection's account at its vendor, opened for one command within the budget of its API key."""

from __future__ import annotations

import aiohttp

from eventsync.cli.session import Installation
from eventsync.crypto import fingerprint
from eventsync.domain.connections import Connection
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import VendorClient


def budget_of(at: Installation, connection: Connection) -> PostgresBudget:
    """Open the ledger that the connection's API key shares with every other process."""
    limits = BudgetLimits(connection.calls_per_minute, connection.calls_per_day)
    return PostgresBudget(at.database, fingerprint(connection.api_key), limits, at.clock)


def client_of(at: Installation, connection: Connection, http: aiohttp.ClientSession) -> VendorClient:
    """Open the account. A command does not wait for a vendor that fails: it tries once."""
    access = VendorHttp(http, budget_of(at, connection), tries=1)
    return at.vendors[connection.vendor].client(connection, access)
