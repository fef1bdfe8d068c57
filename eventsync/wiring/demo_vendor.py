"""One pretend vendor of the demo, connected like a real one: over HTTP, and by a webhook URL that outlives restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from eventsync.domain.connections import ConnectionId, HmacCheck
from eventsync.postgres.tenants import ConnectionSummary, NewConnection, Organization
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.sandbox import RunningSandbox, TrafficMix
from eventsync.wiring.process import Process

_QUIET_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class DemoVendor:
    """A pretend vendor that runs, and the connection by which eventsync knows it."""

    running: RunningSandbox
    connection_id: ConnectionId


async def find_connection(process: Process, owner: Organization, vendor: str) -> ConnectionSummary | None:
    """Find the demo's connection to a vendor, a living one first."""
    own = [row for row in await process.connections.summaries(owner.id) if row.vendor == vendor]
    return min(own, key=lambda row: (row.disabled_at is not None, row.number), default=None)


async def connect(
    process: Process,
    owner: Organization,
    known: ConnectionSummary | None,
    running: RunningSandbox,
    signature: HmacCheck | None = None,
) -> DemoVendor:
    """Let the `known` connection lead to where the vendor runs now, or make one that asks for `signature`."""
    if known is not None:
        await process.connections.relocate(known.id, running.api_url, process.clock())
        return DemoVendor(running, known.id)
    new = NewConnection(
        organization_id=owner.id,
        vendor=running.sandbox.vendor.name,
        api_key=running.api_key,
        base_url=running.api_url,
        practice_id=running.practice_id,
        hmac=signature,
    )
    return DemoVendor(running, (await process.connections.add(new, process.clock())).id)


@asynccontextmanager
async def sending_webhooks(
    process: Process, vendor: DemoVendor, base_url: str, *, rate_per_s: float
) -> AsyncIterator[None]:
    """Let things happen at the vendor, whose webhooks go to eventsync at `base_url`; a rate of 0 leaves it quiet."""
    sandbox = vendor.running.sandbox
    tokens = WebhookTokens(process.database, process.options.keyring)
    revealed = await tokens.reveal(vendor.connection_id, None, "demo", process.clock())
    webhook_url = f"{base_url}/api/webhooks/{sandbox.vendor.name}/{revealed[0].token}"
    sandbox.set_targets(dict.fromkeys(sandbox.vendor.webhook_kinds, webhook_url))
    if rate_per_s > 0:
        await sandbox.start_traffic(rate_per_s, TrafficMix())
    try:
        yield
    finally:
        await sandbox.stop_traffic()
        await sandbox.quiesce(_QUIET_WITHIN_S)
