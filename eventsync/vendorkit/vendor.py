"""What a vendor is: the contract that each folder in vendors/ fulfils, and the one stages/ rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from eventsync.domain.changes import EntityRef, RecordChange
from eventsync.domain.connections import Connection
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendorkit.http import VendorHttp


@dataclass(frozen=True, slots=True)
class VendorLimits:
    """What the vendor allows an account by default; `calls_per_day` of None means no daily cap."""

    calls_per_minute: int
    calls_per_day: int | None


class VendorClient(Protocol):
    """One connection's account at the vendor's API.

    Every call is budgeted and raises Transient, Rejected (the vendor says that the request can never work) or
    Misconfigured (credentials refused).
    """

    async def check_credentials(self) -> None:
        """Make the cheapest call that proves the credentials."""

    async def refetch(self, entity: EntityRef, *, sequence: int, read_began_ms: int) -> tuple[RecordChange, ...]:
        """Read one record; the first change says what it looks like, further ones what it mentions.

        Where the vendor has it no more, that is a Delete or, for kinds that the vendor's time orders, an Absence.
        `sequence` is the entity's own, taken before the read: the position of kinds without a vendor's time.
        """


class Vendor(Protocol):
    """A vendor, as data and three ways to reach it."""

    name: str
    default_base_url: str
    limits: VendorLimits

    def read_webhook(self, body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
        """Understand one webhook (pure). Raises Rejected with a reason when it can never be understood."""

    def client(self, connection: Connection, http: VendorHttp) -> VendorClient:
        """Open the connection's account over `http`."""
