"""The main promise: whatever the network does to the webhooks, the copy ends up equal to the vendor's own data."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from e2e.fixtures import Connect, Connected, Start
from e2e.sandbox_truth import appointment_rows, document_states, expected_appointments
from eventsync.crypto import Keyring
from eventsync.sandbox import Faults, QuotaLimits, RunningSandbox, SandboxOptions, TrafficMix, serve
from eventsync.settings import Settings
from eventsync.wiring import Role
from eventsync.wiring.process import ProcessOptions, open_process
from servers.eventually import eventually

WEBHOOKS = 10_000
UNRELIABLE = Faults(duplicate=0.2, reorder=0.2, delay=0.05, delay_max_s=1.0)
NO_QUOTA = QuotaLimits(per_minute=None, per_day=None)
# Appointments mostly, as in a practice: notes and intakes each cost a call to the vendor's API.
MIX = TrafficMix(silent_share=0.0, weights={"lock_note": 1, "submit_intake": 1})


@pytest.mark.timeout(240)
async def test_10_000_unreliable_webhooks_end_in_the_vendors_own_data_over_rabbitmq(
    start_eventsync: Start, connect: Connect, database: asyncpg.Connection, amqp_url: str
) -> None:
    async with serve(practice()) as sandbox:
        connected = await connect(sandbox)
        door = await start_eventsync("ingress", "relay", amqp_url=amqp_url)
        others = [
            await start_eventsync("relay", "consumer", amqp_url=amqp_url),
            await start_eventsync("consumer", "worker", "scheduler", amqp_url=amqp_url),
        ]
        await send_everything(sandbox, door.base_url, connected)
        await assert_the_copy_is_true(database, sandbox)
        assert [await process.stop() for process in (door, *others)] == [0, 0, 0]


@pytest.mark.timeout(240)
async def test_10_000_unreliable_webhooks_end_in_the_vendors_own_data_within_one_process(
    connect: Connect, database: asyncpg.Connection, database_url: str, keyring: Keyring, tmp_path: Path
) -> None:
    options = ProcessOptions(
        settings=Settings(data_dir=tmp_path),
        roles=frozenset(Role),
        database_url=database_url,
        keyring=keyring,
        port=0,
        relays=2,
        consumers=2,
    )
    async with serve(practice()) as sandbox, open_process(options) as process, process.running():
        connected = await connect(sandbox)
        await send_everything(sandbox, process.servers[0].address, connected)
        await assert_the_copy_is_true(database, sandbox)


def practice() -> SandboxOptions:
    """A practice that begins empty, so that all of its data came by webhook."""
    return SandboxOptions(appointments=0, clients=500, faults=UNRELIABLE, quota=NO_QUOTA, seed=7)


async def send_everything(sandbox: RunningSandbox, base_url: str, connected: Connected) -> None:
    url = base_url + connected.webhook_path
    sandbox.sandbox.set_targets(dict.fromkeys(("appointment", "intake", "note", "invoice"), url))
    result = await sandbox.sandbox.burst(WEBHOOKS, MIX, timeout_s=120)
    stats = sandbox.sandbox.stats
    assert result.idle
    assert result.webhooks == WEBHOOKS
    assert stats.duplicated > WEBHOOKS * 0.15
    assert stats.reordered > WEBHOOKS * 0.15
    assert stats.delayed > WEBHOOKS * 0.03
    assert set(stats.answers) == {"200"}


async def assert_the_copy_is_true(database: asyncpg.Connection, sandbox: RunningSandbox) -> None:
    async def all_ended() -> bool:
        waiting = await database.fetch(
            "SELECT work, status, reason, error, count(*) FROM event_queue GROUP BY 1, 2, 3, 4"
        )
        assert not waiting
        return True

    await eventually(all_ended, 60)
    facts = list(sandbox.sandbox.truth())
    expected = expected_appointments(facts)
    assert await appointment_rows(database) == expected
    assert any(row["deleted"] for row in expected.values())
    for kind in ("invoice", "note", "intake"):
        of_kind = {fact.data["Id"]: fact.data["Status"] for fact in facts if fact.kind == kind and not fact.deleted}
        states = await document_states(database, kind)
        assert states
        if kind == "intake":  # the practice begins with some that no webhook ever named
            assert states.items() <= of_kind.items()
        else:
            assert states == of_kind
    received = await database.fetchval("SELECT count(*) FROM event_history")
    assert received == sum(sandbox.sandbox.stats.sent.values())
