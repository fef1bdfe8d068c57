"""The machine's clock is set forward and back by hours under load: nothing is lost, and nothing waits for the clock."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from e2e.fixtures import Connect
from e2e.moving_again import RecordProperty, seconds_to_move, tell
from e2e.nothing_lost import assert_nothing_lost
from e2e.persistent_sender import PersistentSender
from e2e.probes import says_that_all_is_well
from e2e.steady_load import under_load
from e2e.whole_process import PRACTICE, process_of, running, whole_process
from eventsync.domain.events import received_at_of
from eventsync.sandbox import serve
from servers.eventually import eventually

_PLACES = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib64/faketime/libfaketime.so.1")  # Debian, Fedora
_MISSING = "libfaketime is missing: run tests/install-services, which installs it or says what to install"
_TAKES_EFFECT_WITHIN_S = 5.0
_WEEKS_H = 60 * 24.0  # further than partitions are made ahead, and back
_MOVES_H = [6.0, -6.0, _WEEKS_H, *([-_WEEKS_H] if os.environ.get("EVENTSYNC_PROVE") else [])]


class MachineClock:
    """The wall clock as one process sees it, moved by libfaketime; what measures intervals is left as it is.

    That is what setting a machine's clock does: CLOCK_REALTIME moves, CLOCK_MONOTONIC does not.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.settings = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds until a move is seen
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.set_ahead(hours=0)

    def set_ahead(self, *, hours: float) -> None:
        """Move the clock to this many hours ahead of the true time, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{hours * 3600:+.0f}\n")
        new.replace(self._file)


@pytest.fixture
def machine_clock(tmp_path: Path) -> MachineClock:
    found = [library for place in _PLACES for library in Path("/").glob(place)]
    if not found and os.environ.get("CI") == "true":  # there a missing service is never overlooked
        pytest.fail(_MISSING)
    if not found:
        pytest.skip(_MISSING)
    return MachineClock(found[0], tmp_path / "clock")


async def stores_with_a_clock_ahead(sender: PersistentSender, *, hours: float) -> None:
    """Wait until the door gives events times that are this far from ours: it has seen its clock move."""
    before = set(sender.acknowledged)
    ahead = timedelta(hours=hours)

    def has_stored_one() -> bool:
        new = sender.acknowledged - before
        return any(abs(received_at_of(event_id) - datetime.now(UTC) - ahead) < timedelta(minutes=5) for event_id in new)

    await eventually(has_stored_one, _TAKES_EFFECT_WITHIN_S)


@pytest.mark.parametrize("hours", _MOVES_H)
async def test_the_clock_is_moved_and_moved_back_under_load(
    hours: float,
    machine_clock: MachineClock,
    connect: Connect,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    process = whole_process(tmp_path, database_url, settings=machine_clock.settings)
    async with serve(PRACTICE) as sandbox, running(process):
        sender = PersistentSender(process.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await seconds_to_move(database, sender)
            for ahead_h in (hours, 0.0):
                machine_clock.set_ahead(hours=ahead_h)
                await stores_with_a_clock_ahead(sender, hours=ahead_h)
                seconds = await seconds_to_move(database, sender)
                tell(record_property, f"clock moved from {hours - ahead_h:+g} h to {ahead_h:+g} h", seconds)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        await says_that_all_is_well(process.base_url)
        assert await process.stop() == 0


async def test_a_door_whose_clock_is_hours_ahead_of_the_relays_delays_nothing(
    machine_clock: MachineClock,
    connect: Connect,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    machine_clock.set_ahead(hours=6)
    door = process_of(tmp_path / "door", database_url, "ingress", settings=machine_clock.settings)
    hand = process_of(tmp_path / "hand", database_url, "relay", "consumer", "worker", "scheduler")
    async with serve(PRACTICE) as sandbox, running(door), running(hand):
        sender = PersistentSender(door.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await stores_with_a_clock_ahead(sender, hours=6)
            seconds = await seconds_to_move(database, sender)
            tell(record_property, "the door's clock is six hours ahead", seconds)
            machine_clock.set_ahead(hours=0)
            await stores_with_a_clock_ahead(sender, hours=0)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        for process in (door, hand):
            await says_that_all_is_well(process.base_url)
            assert await process.stop() == 0
