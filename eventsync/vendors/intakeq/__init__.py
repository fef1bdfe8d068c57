"""IntakeQ (PracticeQ), a practice management system that pushes webhooks: its name and limits, its two ways in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta

from eventsync.domain.connections import Connection
from eventsync.domain.records import Content, RecordKind
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.listing import ListingRules
from eventsync.vendorkit.vendor import RecordVendor, SignatureForm, VendorLimits
from eventsync.vendors.intakeq.announcements import announcement_of
from eventsync.vendors.intakeq.client import IntakeQClient
from eventsync.vendors.intakeq.paging import ROWS_PER_PAGE
from eventsync.vendors.intakeq.webhook import read_webhook


class IntakeQ:
    """IntakeQ as data. Its limits are those without the paid upgrade (IntakeQ API Rate Limits, article 711)."""

    name = "intakeq"
    default_base_url = "https://intakeq.com/api/v1"
    limits = VendorLimits(calls_per_minute=10, calls_per_day=500)
    webhook_signature: SignatureForm | None = None  # IntakeQ signs nothing: its webhooks are known by their token
    listing_rules = ListingRules(rows_per_page=ROWS_PER_PAGE, deletions_told_for=timedelta(days=10))

    def read_webhook(self, body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
        """Understand one webhook (pure). Raises Rejected with a reason when it can never be understood."""
        return read_webhook(body, headers, context)

    def client(self, connection: Connection, http: VendorHttp) -> IntakeQClient:
        """Open the connection's account over `http`."""
        return IntakeQClient(connection, http)

    def announcement_of(
        self, kind: RecordKind, changed_fields: Collection[str], content: Content | None, *, is_new: bool
    ) -> str | None:
        """Name the event whose webhook tells of such a change; None where IntakeQ sends none (pure)."""
        return announcement_of(kind, changed_fields, content, is_new=is_new)


VENDOR: RecordVendor = IntakeQ()
