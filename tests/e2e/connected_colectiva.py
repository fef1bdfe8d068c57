"""Connects a pretend Colectiva to the eventsync of a database."""

from __future__ import annotations

from datetime import UTC, datetime

from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.sandbox import RunningSandbox
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from eventsync.vendors import load_vendors


async def connect_colectiva(
    pool: Database, keyring: Keyring, sandbox: RunningSandbox, *, base_url: str | None = None
) -> ColectivaVendor:
    """Connect it, without limits worth the name; by way of `base_url`, such as a proxy's, where one is given."""
    now = datetime.now(UTC)
    owner = await Organizations(pool).add("Plenura", "plenura", now)
    new = NewConnection(
        organization_id=owner.id,
        vendor="colectiva",
        api_key=sandbox.api_key,
        base_url=base_url or sandbox.api_url,
        settings={"calls_per_minute": "1000000", "calls_per_day": "unlimited"},
    )
    await Connections(pool, keyring, load_vendors()).add(new, now)
    colectiva = sandbox.sandbox.vendor
    assert isinstance(colectiva, ColectivaVendor)
    return colectiva
