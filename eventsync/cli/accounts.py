"""A connection's account at its vendor, opened for one command within the budget of its API key."""

from __future__ import annotations

import aiohttp

from eventsync.cli.session import Installation
from eventsync.domain.connections import Connection
from eventsync.domain.errors import Misconfigured
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.registry import Registry, RegistryVendor
from eventsync.vendorkit.vendor import RecordVendor, VendorClient
from eventsync.wiring.accounts import budget_of


def account_of(at: Installation, connection: Connection, http: aiohttp.ClientSession) -> VendorClient | Registry:
    """Open the account, of whatever kind. A command does not wait for a vendor that fails: it tries once.

    Raises Misconfigured for a key that cannot be sent, and for a vendor that has no account to open.
    """
    access = VendorHttp(http, budget_of(at.database, connection, at.clock), tries=1)
    match at.vendors.get(connection.vendor):
        case RecordVendor() as vendor:
            return vendor.client(connection, access)
        case RegistryVendor() as vendor:
            return vendor.registry(connection, access)
        case _:
            raise Misconfigured(f"this release cannot speak to {connection.vendor}: disable the connection")
