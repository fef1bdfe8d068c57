"""Names for the practitioners of a connection: learned from the vendor, and missed where an appointment names none."""

from __future__ import annotations

from datetime import datetime, timedelta

from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.providers import Providers
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.vendor import VendorClient

_LOOKED_AROUND = timedelta(days=90)


async def learn_practitioners(
    database: Database, client: VendorClient, connection_id: ConnectionId, purpose: Purpose, now: datetime
) -> int:
    """List the account's practitioners by one call, and name those who have no name yet; tell how many they were.

    What a person has named stays as it is. Raises what the vendor's client raises, and Transient for PostgreSQL.
    """
    practitioners = await client.practitioners(purpose=purpose)
    return await Providers(database).learn(connection_id, practitioners, now)


async def unknown_practitioners(database: Database, connection_id: ConnectionId, now: datetime) -> list[str]:
    """Tell the ids of practitioners without a name whose living appointments begin within 90 days of now."""
    return list(await Providers(database).unknown(connection_id, now - _LOOKED_AROUND, now + _LOOKED_AROUND))


def unknown_practitioner(practitioner_id: str) -> str:
    """Warn of a practitioner without a name, and say what to do."""
    return f"Unknown practitioner {practitioner_id}: map it with `eventsync providers map`"
