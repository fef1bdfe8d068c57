"""What a vendor is: the contract that each folder in vendors/ fulfils, and the one stages/ rely on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from eventsync.domain.changes import EntityRef, RecordChange, Summary
from eventsync.domain.connections import Connection
from eventsync.domain.records import Content, Practitioner, RecordKind
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.listing import Listing, ListingRules, Page


@dataclass(frozen=True, slots=True)
class VendorLimits:
    """What the vendor allows an account by default; `calls_per_day` of None means no daily cap."""

    calls_per_minute: int
    calls_per_day: int | None


@dataclass(frozen=True, slots=True)
class SignatureForm:
    """How a vendor signs its webhooks (HMAC-SHA256 over the raw bytes, in hex)."""

    header: str
    prefix: str = ""


class RecordReader(Protocol):
    """Reads single records at the vendor.

    Every call is budgeted and raises Transient, Rejected (the vendor says that the request can never work) or
    Misconfigured (credentials refused).
    """

    async def refetch(
        self, entity: EntityRef, *, sequence: int, read_began_ms: int, purpose: Purpose = Purpose.REFETCH
    ) -> tuple[RecordChange, ...]:
        """Read one record; the first change says what it looks like, further ones what it mentions.

        Where the vendor has it no more, that is a Delete or, for kinds that the vendor's time orders, an Absence.
        `sequence` is the entity's own, taken before the read: the position of kinds without a vendor's time.
        """


class VendorClient(RecordReader, Protocol):
    """One connection's account at the vendor's API; every call as RecordReader's are."""

    async def check_credentials(self) -> None:
        """Make the cheapest call that proves the credentials."""

    def pages(
        self, listing: Listing, *, read_began_ms: int, purpose: Purpose
    ) -> AsyncGenerator[Page[RecordChange], None]:
        """List records, page by page, as Upserts, deleted ones as Deletes; what they mention comes with them.

        A failed page raises, so that it never looks like the last one. `read_began_ms` is when the whole read began,
        in Unix milliseconds. Raises ValueError for a listing that the vendor has not.
        """

    def summaries(self, listing: Listing, *, purpose: Purpose) -> AsyncGenerator[Page[Summary], None]:
        """List records of the kinds whose lists do not tell them whole. Raises ValueError for other kinds."""

    async def practitioners(self, *, purpose: Purpose) -> tuple[Practitioner, ...]:
        """List who works at the practice."""


class Vendor(Protocol):
    """A vendor, as data and what every one of them has: webhooks. What else there is says what it fulfils besides.

    `webhook_signature` names the header and prefix that it signs its webhooks with, None where it signs nothing.
    """

    name: str
    default_base_url: str
    limits: VendorLimits
    webhook_signature: SignatureForm | None

    def read_webhook(self, body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
        """Understand one webhook (pure). Raises Rejected with a reason when it can never be understood."""


@runtime_checkable
class RecordVendor(Vendor, Protocol):
    """A vendor whose records we copy."""

    listing_rules: ListingRules

    def client(self, connection: Connection, http: VendorHttp) -> VendorClient:
        """Open the connection's account over `http`."""

    def announcement_of(
        self, kind: RecordKind, changed_fields: Collection[str], content: Content | None, *, is_new: bool
    ) -> str | None:
        """Name the event whose webhook tells of such a change; None where the vendor sends none (pure).

        `changed_fields` are those of the record, `deleted_at` among them where it ended; `content` is what the record
        says since.
        """
