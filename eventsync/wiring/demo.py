"""The pretend practice beside a running process: it is connected like a real one, over HTTP and by a webhook URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from eventsync.domain.connections import ConnectionId
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.sandbox import RunningSandbox, SandboxOptions, TrafficMix, serve
from eventsync.wiring.process import Process

DEMO_RATE_PER_S = 2.0
_EXTERNAL_ID = "sandbox"
_WEBHOOK_KINDS = ("appointment", "intake", "note", "invoice")
_QUIET_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Demo:
    """The pretend practice, and the connection by which eventsync knows it."""

    sandbox: RunningSandbox
    connection_id: ConnectionId
    webhook_url: str


@asynccontextmanager
async def open_demo(process: Process, base_url: str, *, port: int, rate_per_s: float) -> AsyncIterator[Demo]:
    """Run a pretend practice that sends its webhooks to `base_url`; its data is kept in the data folder."""
    options = SandboxOptions(port=port, state_path=process.options.settings.data_dir / "sandbox-intakeq.json")
    async with serve(options) as running:
        connection_id = await _connect(process, running)
        tokens = WebhookTokens(process.database, process.options.keyring)
        revealed = await tokens.reveal(connection_id, None, "demo", process.clock())
        webhook_url = f"{base_url}/api/webhooks/intakeq/{revealed[0].token}"
        running.sandbox.set_targets(dict.fromkeys(_WEBHOOK_KINDS, webhook_url))
        await running.sandbox.start_traffic(rate_per_s, TrafficMix())
        try:
            yield Demo(running, connection_id, webhook_url)
        finally:
            await running.sandbox.stop_traffic()
            await running.sandbox.quiesce(_QUIET_WITHIN_S)


async def _connect(process: Process, running: RunningSandbox) -> ConnectionId:
    """Find the pretend practice's connection, or make it; its address may be another than the last time."""
    organizations = Organizations(process.database)
    connections = Connections(process.database, process.options.keyring, process.vendors)
    organization = await organizations.find(_EXTERNAL_ID)
    if organization is None:
        organization = await organizations.add("Sandbox Practice", _EXTERNAL_ID, process.clock())
    for summary in await connections.summaries(organization.id):
        await connections.relocate(summary.id, running.api_url, process.clock())
        return summary.id
    new = NewConnection(
        organization_id=organization.id,
        vendor="intakeq",
        api_key=running.api_key,
        base_url=running.api_url,
        practice_id=running.practice_id,
    )
    return (await connections.add(new, process.clock())).id
