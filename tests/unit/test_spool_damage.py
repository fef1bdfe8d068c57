"""Damage to the spool, of a file or of a single entry, costs what is damaged and nothing else."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from eventsync.crypto import KEY_BYTES, Keyring
from eventsync.domain.connections import ConnectionId, WebhookVerifier
from eventsync.domain.events import EventSource, IncomingEvent, new_event_id
from eventsync.spool.entries import UnverifiedEvent
from eventsync.spool.errors import SpoolFull
from eventsync.spool.spool import Spool

OLD_KEY = b"o" * KEY_BYTES
NEW_KEY = b"n" * KEY_BYTES
NOON = datetime(2025, 6, 2, 12, 0, tzinfo=UTC)
CONNECTION = ConnectionId(UUID(int=7))
VERIFIER = WebhookVerifier(b"h" * 32, CONNECTION, "intakeq")
PAGE_BYTES = 4096


def event(number: int, body: bytes = b"{}") -> IncomingEvent:
    return IncomingEvent(
        id=new_event_id(NOON + timedelta(seconds=number), number.to_bytes(10, "big")),
        connection_id=CONNECTION,
        vendor="intakeq",
        source=EventSource.WEBHOOK,
        headers=(),
        body=body,
    )


@asynccontextmanager
async def opened(path: Path, *keys: bytes, max_bytes: int = 8 * 1024 * 1024) -> AsyncIterator[Spool]:
    spool = Spool(path, Keyring(keys or (NEW_KEY,)), clock=lambda: NOON, max_bytes=max_bytes)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def create(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def size_bytes(path: Path) -> int:
    return path.stat().st_size


def cut_in_half(path: Path) -> None:
    os.truncate(path, size_bytes(path) // 2)


def change_row(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


async def test_a_file_with_a_broken_header_is_moved_aside_and_a_new_one_begins(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1)])
    overwrite(path, 0, b"\xde\xad\xbe\xef" * 8)
    with capture_logs() as logs:
        async with opened(path) as spool:
            assert spool.stats.damaged_files == (path.with_name("spool.db.damaged-20250602T120000Z"),)
            await spool.put([event(2)])
            assert await spool.oldest(10) == [event(2)]
    assert "spool.db.damaged-20250602T120000Z" in names(path)
    assert [log["moved_to"] for log in logs if log["event"] == "spool.damaged"] == ["spool.db.damaged-20250602T120000Z"]


async def test_a_file_that_was_never_a_spool_is_moved_aside(path: Path) -> None:
    content = b"this is no database at all" * 1000
    create(path, content)
    async with opened(path) as spool:
        await spool.put([event(1)])
        (aside,) = spool.stats.damaged_files
    assert aside.read_bytes() == content


async def test_two_damages_in_the_same_second_keep_both_files(path: Path) -> None:
    for content in (b"first damage" * 1000, b"second damage" * 1000):
        create(path, content)
        async with opened(path) as spool:
            await spool.put([event(1)])
    assert path.with_name("spool.db.damaged-20250602T120000Z").read_bytes() == b"first damage" * 1000
    assert path.with_name("spool.db.damaged-20250602T120000Z-2").read_bytes() == b"second damage" * 1000


async def test_what_a_file_damaged_in_the_middle_still_gives_is_saved(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(number, os.urandom(3000)) for number in range(200)])
    overwrite(path, size_bytes(path) // 2, os.urandom(PAGE_BYTES * 3))
    async with opened(path) as spool:
        assert len(spool.stats.damaged_files) == 1
        saved = await spool.oldest(500)
        assert 20 < len(saved) <= 200
        assert {one.id for one in saved} <= {event(number).id for number in range(200)}


async def test_a_truncated_file_does_not_stop_the_door(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(number, os.urandom(3000)) for number in range(200)])
    cut_in_half(path)
    async with opened(path) as spool:
        assert len(spool.stats.damaged_files) == 1
        await spool.put([event(1000)])
        assert event(1000) in await spool.oldest(500)


async def test_damage_met_while_running_moves_the_file_aside_and_puts_go_on(path: Path) -> None:
    async with opened(path) as spool:
        await spool.remember_verifiers([VERIFIER])
        await spool.put([event(number, os.urandom(3000)) for number in range(1500)])  # more than SQLite caches
    async with opened(path) as spool:
        overwrite(path, PAGE_BYTES, os.urandom(size_bytes(path) - PAGE_BYTES))
        saved = await spool.oldest(500)
        assert len(saved) < 500
        await spool.put([event(5000)])
        assert len(spool.stats.damaged_files) == 1
        assert event(5000) in await spool.oldest(1500)
    async with opened(path) as spool:
        assert await spool.verifiers() == (VERIFIER,)
        assert event(5000) in await spool.oldest(1500)


async def test_an_entry_of_a_lost_key_is_kept_aside_while_the_others_drain(path: Path) -> None:
    async with opened(path, OLD_KEY) as spool:
        await spool.put([event(1)])
    async with opened(path, NEW_KEY) as spool:
        await spool.put([event(2)])
        with capture_logs() as logs:
            assert await spool.oldest(10) == [event(2)]
        assert (spool.stats.damaged_count, spool.stats.waiting_count) == (1, 1)
        assert spool.stats.oldest_received_at == event(2).received_at
        await spool.forget([event(2).id])
        assert await spool.oldest(10) == []
    assert [(log["event"], log["event_id"], log["reason"]) for log in logs if "event_id" in log] == [
        ("spool.entry_set_aside", str(event(1).id), "does_not_open")
    ]


async def test_entries_kept_aside_drain_once_the_earlier_key_is_back(path: Path) -> None:
    async with opened(path, OLD_KEY) as spool:
        await spool.put([event(1)])
    async with opened(path, NEW_KEY) as spool:
        assert await spool.oldest(10) == []
    async with opened(path, NEW_KEY, OLD_KEY) as spool:
        assert spool.stats.damaged_count == 0
        assert await spool.oldest(10) == [event(1)]


async def test_many_damaged_entries_before_the_first_good_one_do_not_hide_it(path: Path) -> None:
    async with opened(path, OLD_KEY) as spool:
        await spool.put([event(number) for number in range(25)])
    async with opened(path, NEW_KEY) as spool:
        await spool.put([event(1000)])
        assert await spool.oldest(10) == [event(1000)]
        assert spool.stats.damaged_count == 25


async def test_an_entry_changed_on_the_disk_is_kept_aside(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1), event(2)])
    change_row(path, "UPDATE entries SET sealed = zeroblob(9) WHERE id = ?", event(1).id.bytes)
    async with opened(path) as spool:
        assert await spool.oldest(10) == [event(2)]
        assert spool.stats.damaged_count == 1


async def test_nobody_can_pass_off_an_unverified_request_as_a_verified_one(path: Path) -> None:
    stranger = UnverifiedEvent(event(1).id, "intakeq", b"h" * 32, (), b"{}")
    async with opened(path) as spool:
        await spool.put_unverified(stranger)
    change_row(path, "UPDATE entries SET verified = 1 WHERE id = ?", stranger.id.bytes)
    async with opened(path) as spool:
        assert await spool.oldest(10) == []
        assert spool.stats.damaged_count == 1


async def test_an_entry_moved_to_another_id_is_kept_aside(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1)])
    change_row(path, "UPDATE entries SET id = ?", event(2).id.bytes)
    async with opened(path) as spool:
        assert await spool.oldest(10) == []
        assert spool.stats.damaged_count == 1


async def test_entries_can_be_kept_aside_in_a_spool_that_is_full(path: Path) -> None:
    small = 128 * 1024
    async with opened(path, OLD_KEY, max_bytes=small) as spool:
        count = 0
        with suppress(SpoolFull):
            while True:
                await spool.put([event(count)])
                count += 1
        assert spool.stats.fullness > 0.99
    async with opened(path, NEW_KEY, max_bytes=small) as spool:
        assert await spool.oldest(10) == []
        assert spool.stats.damaged_count == count > 200


async def test_verifiers_that_do_not_open_are_none_and_are_replaced_by_the_next_set(path: Path) -> None:
    async with opened(path, OLD_KEY) as spool:
        await spool.remember_verifiers([VERIFIER])
    async with opened(path, NEW_KEY) as spool:
        assert await spool.verifiers() == ()
        await spool.remember_verifiers([VERIFIER])
    async with opened(path, NEW_KEY) as spool:
        assert await spool.verifiers() == (VERIFIER,)
