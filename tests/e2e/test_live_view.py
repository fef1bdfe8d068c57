"""What `eventsync up` draws of the outbound queue: only where there is something, and what one must know."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console

from eventsync.cli.live import LiveView
from eventsync.crypto import Keyring
from eventsync.settings import Settings
from eventsync.wiring import Role
from eventsync.wiring.demo import DemoOptions, open_demo
from eventsync.wiring.process import Process, ProcessOptions, open_process

WIDTH, HEIGHT = 80, 24  # the smallest terminal that is usual
ITEM = """
INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload, status, waiting_since)
VALUES ('practice', gen_random_uuid(), 'plenura_1', 'register', '{}', $1, now() - interval '40 seconds')
"""


@pytest.fixture
async def process(
    database_url: str, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Process]:
    """A process that is open; as long as it does not run, what waits goes on waiting."""
    monkeypatch.delenv("COLECTIVA_API_KEY", raising=False)
    options = ProcessOptions(
        settings=Settings(data_dir=tmp_path / "data"),
        roles=frozenset(Role),
        database_url=database_url,
        keyring=keyring,
        port=0,
    )
    async with open_process(options) as process:
        yield process


async def drawn(view: LiveView) -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT)
    console.print(await view.frame())
    return console.export_text().splitlines()


async def test_without_a_connection_and_without_items_nothing_is_said_of_sending(process: Process) -> None:
    lines = await drawn(LiveView(process, None, Console()))
    assert any("received" in line for line in lines)
    assert not any("to be sent" in line or "delivered" in line for line in lines)


async def test_what_waits_what_failed_and_a_pause_with_its_reason_are_shown(
    process: Process, database: asyncpg.Connection
) -> None:
    async with open_demo(process, DemoOptions()) as demo:
        assert demo.colectiva is not None
        for status in ("pending", "pending", "failed"):
            await database.execute(ITEM, status)
        await database.execute(
            "INSERT INTO outbound_pauses (connection_id, reason, paused_at, refused_at, probe_at)"
            " VALUES ($1, 'the [key] expired\x1b[2J', now(), now(), now())",
            demo.colectiva.connection_id,
        )
        lines = [line.strip("│ ") for line in await drawn(LiveView(process, demo, Console()))]
    assert any(line.startswith("to be sent") and "2" in line and "the oldest for 4" in line for line in lines)
    assert any(line.startswith("failed") and " 1 " in line for line in lines)
    assert any(line.startswith("paused") and "the [key] expired\N{REPLACEMENT CHARACTER}[2J" in line for line in lines)


async def test_both_pretend_vendors_fit_into_a_small_terminal(process: Process) -> None:
    async with open_demo(process, DemoOptions()) as demo:
        for vendor in (demo.practice, demo.colectiva):
            assert vendor is not None
            stats = vendor.running.sandbox.stats
            stats.webhooks.update({f"Appointment Kind {number}": 1000 for number in range(12)})
        async with process.running():
            lines = await drawn(LiveView(process, demo, Console()))
    assert len(lines) < HEIGHT
    assert any("IntakeQ at http://" in line and "Colectiva at http://" in line for line in lines)


async def test_events_of_all_vendors_are_counted_together(process: Process) -> None:
    for vendor in ("intakeq", "colectiva"):
        process.metrics.finished.labels(vendor=vendor, outcome="unchanged").inc(20)
    lines = await drawn(LiveView(process, None, Console()))
    assert any("unchanged" in line and "40" in line for line in lines)


async def test_what_was_delivered_is_told_with_how_long_it_took(process: Process) -> None:
    process.metrics.outbound_attempts.labels(result="accepted").inc(7)
    process.metrics.outbound_attempts.labels(result="failed").inc(3)
    process.metrics.outbound_delivery_seconds.observe(200.0)
    lines = [line.strip("│ ") for line in await drawn(LiveView(process, None, Console()))]
    assert any(line.startswith("delivered") and " 7 " in line and "min" in line for line in lines)
