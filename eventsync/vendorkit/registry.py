"""What a registry is: a vendor that is told of our organizations, instead of telling us of its records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from eventsync.domain.connections import Connection
from eventsync.domain.deliveries import Answer, OutboundItem
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import Vendor


class Registry(Protocol):
    """One connection's account at a registry; every call is budgeted."""

    async def check_credentials(self) -> None:
        """Make a call that proves the credentials and changes nothing. Raises Misconfigured, Transient."""

    async def deliver(self, item: OutboundItem) -> Answer:
        """Send one item, once, with its idempotency key, and tell what the answer means for the queue.

        Nothing that the network or the other side does is raised: a call that was never sent, ours or their limit
        included, is a Deferred, one whose outcome nobody knows a Failed, a wrong account or address a Halted, which
        says what to mend in words of ours. Raises Transient or Misconfigured where the budget's ledger is away or
        refuses us: nothing was sent.
        """

    def body_of(self, item: OutboundItem) -> Mapping[str, Any]:
        """Write what `deliver` would send (pure)."""


@runtime_checkable
class RegistryVendor(Vendor, Protocol):
    """A vendor that is told of our organizations."""

    def registry(self, connection: Connection, http: VendorHttp) -> Registry:
        """Open the connection's account over `http`. Raises Misconfigured for a key that no header can carry."""
