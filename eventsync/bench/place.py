"""Where a benchmark keeps its data: a PostgreSQL of its own in a temporary folder, durable, and removed afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit, urlunsplit

from eventsync.postgres.database import Database
from eventsync.postgres.embedded import EmbeddedPostgres
from eventsync.postgres.migrations import migrate

# As users have it, and the server notes in addition when each transaction was committed.
_SETTINGS = MappingProxyType({"fsync": "on", "synchronous_commit": "on", "track_commit_timestamp": "on"})


@dataclass(slots=True)
class Place:
    """A running server and a folder; both end with the block that `open_place` opened."""

    server_url: str = field(repr=False)
    server_pid: int
    folder: Path
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Yield the URL of an empty database with this release's tables; it is dropped afterwards."""
        # Names cannot be parameters of these statements; this one is our own.
        name = f"bench_{next(self._numbers)}"
        await self._execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(self.server_url)._replace(path=f"/{name}"))
        try:
            await migrate(url)
            yield url
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def new_folder(self, name: str) -> Path:
        """Make a folder of that name, with a number."""
        folder = self.folder / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        return folder

    async def _execute(self, statement: str) -> None:
        async with open_database(self.server_url) as database, database.session() as session:
            await session.execute(statement)


@asynccontextmanager
async def open_place(temp_dir: Path | None) -> AsyncIterator[Place]:
    """Make the folder and start the server. Raises Misconfigured where PostgreSQL cannot run there."""
    folder = _new_folder(temp_dir)
    try:
        server = await EmbeddedPostgres(folder / "data", settings=_SETTINGS).start()
        try:
            yield Place(server.url, server.pid, folder)
        finally:
            await server.stop()
    finally:
        _remove(folder)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open a small pool that has time for the questions that are asked over all rows."""
    database = Database(url, max_connections=2, command_timeout_s=120.0)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def memory_backed(folder: Path) -> bool:
    """Whether what is in `folder` is kept in memory only, so that no commit waits for a disk."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return False
    here = folder.resolve()
    around = [(len(Path(point).parts), kind) for _, point, kind, *_ in mounts if here.is_relative_to(point)]
    return bool(around) and max(around)[1] in {"tmpfs", "ramfs"}


def _new_folder(temp_dir: Path | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="eventsync-bench-", dir=temp_dir))
    folder.chmod(0o711)  # where we are root, PostgreSQL runs as another user, who must be able to pass
    return folder


def _remove(folder: Path) -> None:
    """Remove the folder, and the server's files where root had to put them elsewhere."""
    cluster = folder / "data" / "postgres"
    if cluster.is_symlink():
        shutil.rmtree(cluster.resolve(), ignore_errors=True)
    shutil.rmtree(folder)
