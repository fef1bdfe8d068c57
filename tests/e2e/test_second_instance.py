"""A second instance comes and goes, in order or by a kill, while the first is under load: nothing lost or doubled."""

from __future__ import annotations

import signal
from pathlib import Path

import asyncpg
import pytest

from e2e.fixtures import Connect
from e2e.moving_again import RecordProperty, seconds_to_move, tell
from e2e.nothing_lost import assert_nothing_lost, busy_days
from e2e.persistent_sender import PersistentSender
from e2e.probes import says_that_all_is_well
from e2e.steady_load import Load, under_load
from e2e.whole_process import PRACTICE, running, whole_process
from eventsync.sandbox import RunningSandbox, serve

_STOPS_WITHIN_S = 26.0
_DAYS = 5


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_a_second_instance_comes_and_goes_under_load(
    ending: signal.Signals,
    connect: Connect,
    database: asyncpg.Connection,
    database_url: str,
    amqp_url: str,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    first = whole_process(tmp_path / "first", database_url, amqp_url)
    second = whole_process(tmp_path / "second", database_url, amqp_url)
    async with serve(PRACTICE) as sandbox, running(first):
        path = (await connect(sandbox)).webhook_path
        sender = PersistentSender(first.base_url + path)
        async with under_load(sandbox, sender) as load:
            await seconds_to_move(database, sender)
            async with running(second):
                await says_that_all_is_well(second.base_url)
                tell(record_property, "a second instance started", await seconds_to_move(database, sender))
                await send_by(second.base_url + path, sandbox, load, sender)
                if ending == signal.SIGTERM:
                    assert await second.stop(within_s=_STOPS_WITHIN_S) == 0
                else:
                    await second.kill()
                    await let_leases_run_out(database)
                tell(
                    record_property,
                    f"the second instance ended by {ending.name}",
                    await seconds_to_move(database, sender),
                )
            await says_that_all_is_well(first.base_url)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert await first.stop() == 0


async def send_by(url: str, sandbox: RunningSandbox, load: Load, sender: PersistentSender) -> None:
    """Send some days' webhooks to another door as well, and count them with the others."""
    days, other = busy_days(sandbox, _DAYS), PersistentSender(url)
    await other.deliver(days.bodies)
    load.record_ids |= days.record_ids
    sender.posts += other.posts
    sender.acknowledged |= other.acknowledged


async def let_leases_run_out(database: asyncpg.Connection) -> None:
    """Let the five minutes pass for which a worker that was killed holds the records that it was reading."""
    async with database.transaction():
        await database.execute("UPDATE event_queue SET leased_until = '-infinity' WHERE status = 'running'")
        await database.execute("UPDATE record_reads SET leased_until = '-infinity'")


async def test_a_second_instance_on_the_same_data_folder_is_refused_and_told_what_to_do(
    connect: Connect, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    first = whole_process(tmp_path, database_url)
    second = whole_process(tmp_path, database_url)
    second.log_path = tmp_path / "second.log"
    async with serve(PRACTICE) as sandbox, running(first):
        sender = PersistentSender(first.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await seconds_to_move(database, sender)
            with pytest.raises(RuntimeError, match="EVENTSYNC_DATA_DIR"):
                await second.start()
            assert await second.stop() == 2
            await seconds_to_move(database, sender)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert "Traceback" not in second.log_path.read_text()
        await says_that_all_is_well(first.base_url)
        assert await first.stop() == 0
