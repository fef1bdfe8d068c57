"""A connection's account at its vendor, opened for one command within the budget of its API key."""

from __future__ import annotations

import aiohttp

from eventsync.cli.session import Installation
from eventsync.domain.connections import Connection
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import VendorClient
from eventsync.wiring.accounts import budget_of


def client_of(at: Installation, connection: Connection, http: aiohttp.ClientSession) -> VendorClient:
    """Open the account. A command does not wait for a vendor that fails: it tries once."""
    access = VendorHttp(http, budget_of(at.database, connection, at.clock), tries=1)
    return at.record_vendors[connection.vendor].client(connection, access)
