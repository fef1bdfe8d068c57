"""Colectiva, the registry that is told of Plenura's organizations: its name and limits, and its two directions."""

from __future__ import annotations

from collections.abc import Mapping

from eventsync.domain.connections import Connection
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.registry import RegistryVendor
from eventsync.vendorkit.vendor import SignatureForm, VendorLimits
from eventsync.vendors.colectiva.client import ColectivaClient
from eventsync.vendors.colectiva.webhook import read_webhook


class Colectiva:
    """Colectiva as data. Its server is not public, and its limits are unknown: these are ours, to spare it."""

    name = "colectiva"
    default_base_url = "https://colectiva.redbroomsoftware.com"
    limits = VendorLimits(calls_per_minute=300, calls_per_day=None)
    webhook_signature: SignatureForm | None = SignatureForm("x-colectiva-signature", "sha256=")

    def read_webhook(self, body: bytes, headers: Mapping[str, str], context: WebhookContext) -> WebhookReading:
        """Understand one webhook (pure). Raises Rejected with a reason when it can never be understood."""
        return read_webhook(body, headers, context)

    def registry(self, connection: Connection, http: VendorHttp) -> ColectivaClient:
        """Open the connection's account over `http`. Raises Misconfigured for a key that no header can carry."""
        return ColectivaClient(connection, http)


VENDOR: RegistryVendor = Colectiva()
