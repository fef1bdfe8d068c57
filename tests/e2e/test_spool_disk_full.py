"""The disk of the spool fills up while PostgreSQL is away: 503 and never a false 200, and nothing promised is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from e2e.fixtures import Connect
from e2e.moving_again import RecordProperty, acknowledges_more, seconds_to_move, tell
from e2e.nothing_lost import assert_nothing_lost
from e2e.persistent_sender import PersistentSender
from e2e.probes import says_that_all_is_well, says_that_it_lacks, spooled_events, unready_parts
from e2e.steady_load import under_load
from e2e.whole_process import PRACTICE, running, whole_process
from eventsync.sandbox import serve
from servers.eventually import eventually
from servers.proxy import TcpProxy

_DISK_MIB = 24  # the spool keeps 16 of them free, for what draining needs to write
_WITHIN_S = 30.0
_TIMEOUT = aiohttp.ClientTimeout(total=20)


class SmallDisk:
    """A file system of its own that a test fills to its last byte, and empties again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def make_room(self) -> None:
        """Give back all that was filled."""
        self._filler.unlink()


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncIterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if await _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder)) != 0:
        pytest.skip("a disk of the test's own needs the right to mount a tmpfs (root, outside a closed container)")
    yield SmallDisk(folder)
    assert await _run("umount", "--lazy", str(folder)) == 0


async def _run(*command: str) -> int:
    try:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    except FileNotFoundError:
        return -1
    return await process.wait()


async def refuses(url: str, body: bytes) -> None:
    """Wait until the door says that it cannot keep a webhook, and when to send it again."""

    async def does() -> bool:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, http.post(url, data=body) as answer:
            return answer.status == 503 and int(answer.headers["Retry-After"]) > 0

    await eventually(does, _WITHIN_S)


async def test_the_disk_is_full_while_postgresql_is_away_and_when_it_comes_back(
    small_disk: SmallDisk,
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    connect: Connect,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    proxy = await tcp_proxy(database_url)
    settings = {"EVENTSYNC_DATA_DIR": str(small_disk.folder / "data")}
    process = whole_process(tmp_path / "process", proxy.url, settings=settings)
    async with serve(PRACTICE) as sandbox, running(process):
        url = process.base_url + (await connect(sandbox)).webhook_path
        sender = PersistentSender(url)
        async with under_load(sandbox, sender) as load:
            await seconds_to_move(database, sender)
            await proxy.refuse()
            proxy.cut()
            await eventually(lambda: spooled_events(process.base_url), _WITHIN_S)

            small_disk.fill()
            await refuses(url, load.bodies[0])
            assert {"postgres", "spool", "door"} <= await unready_parts(process.base_url)
            assert not await process.is_ready()

            small_disk.make_room()
            await acknowledges_more(sender)  # by the spool: PostgreSQL is still away
            assert await process.is_ready()

            small_disk.fill()
            await refuses(url, load.bodies[0])
            await proxy.accept()
            seconds = await seconds_to_move(database, sender)
            tell(record_property, "PostgreSQL is back, the disk still full", seconds)
            assert await process.is_ready()
            await says_that_it_lacks(process.base_url, "spool")
            small_disk.make_room()
            await says_that_all_is_well(process.base_url)
        await assert_nothing_lost(database, sandbox, load.work(), sender)
        assert await process.stop() == 0
