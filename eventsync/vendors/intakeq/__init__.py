"""IntakeQ (PracticeQ), a practice management system that pushes webhooks: its name and limits, its two ways in."""

from __future__ import annotations

from collections.abc import Mapping

from eventsync.domain.connections import Connection
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import Vendor, VendorLimits
from eventsync.vendors.intakeq.client import IntakeQClient
from eventsync.vendors.intakeq.webhook import read_webhook


class IntakeQ:
    """IntakeQ as data. Its limits are those without the paid upgrade (IntakeQ API Rate Limits, article 711)."""

    name = "intakeq"
    default_base_url = "https://intakeq.com/api/v1"
    limits = VendorLimits(calls_per_minute=10, calls_per_day=500)

    def read_webhook(self, body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
        """Understand one webhook (pure). Raises Rejected with a reason when it can never be understood."""
        return read_webhook(body, headers, context)

    def client(self, connection: Connection, http: VendorHttp) -> IntakeQClient:
        """Open the connection's account over `http`."""
        return IntakeQClient(connection, http)


VENDOR: Vendor = IntakeQ()
