"""The PostgreSQL of the one-machine default: shared by all commands on a data folder, stopped by the last to leave.

Who may do what is told by locks in the server's folder, which end with their processes: `starting.lock` (one
process starts or stops the server), `users.lock` (shared by all who use it), and `server.lock`, which the
server's own processes hold. So a running server is known for certain, also one whose parent was killed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from eventsync.domain.errors import Transient
from eventsync.postgres.cluster import Cluster, cluster_version
from eventsync.postgres.data_lock import FileLock, data_dir_holder, prepare_data_dir
from eventsync.postgres.postmaster import (
    Postmaster,
    ServerProcess,
    ends_within,
    launch,
    read_postmaster,
    server_lock,
    server_url,
    stop_server,
)
from eventsync.postgres.server_place import (
    SYSTEM_DIR,
    cluster_folder,
    find_binaries,
    reachable_binaries,
    server_account,
)

# initdb may hold the lock: half a second here, many on a slow disk.
_STARTING_LOCK_S = 120.0
_KILLED_SERVER_ENDS_WITHIN_S = 30.0
_ANSWER_WITHIN_S = 5.0
_OWNER_STARTS_WITHIN_S = 10.0
_REAPED_WITHIN_S = 5.0
_WATCH_POLL_S = 0.2


class RunningPostgres:
    """One use of the running server: its address, its end, and the duty to stop it when nobody else uses it.

    `url` is for asyncpg and psql alike and holds the password. `notice` is a sentence for the person at
    the terminal, where the server does not live inside the data folder.
    """

    def __init__(
        self,
        cluster: Cluster,
        postmaster: Postmaster,
        users: FileLock,
        child: ServerProcess | None,
        notice: str | None,
    ) -> None:
        self.url = server_url(cluster.folder, postmaster)
        self.pid = postmaster.pid
        self.log_folder = cluster.log_folder
        self.notice = notice
        self._folder = cluster.folder
        self._users = users
        self._child = child
        self._is_left = False

    async def stop(self) -> None:
        """Leave the server, and end it if nobody else uses it; a second call does nothing.

        Raises Transient where it does not end within half a minute, by whatever signal.
        """
        if self._is_left:
            return
        self._is_left = True
        try:
            async with _starting_lock(self._folder).held(deadline_s=_STARTING_LOCK_S):
                self._users.release()
                await _stop_if_unused(self._folder)
        finally:
            # Cancelled while waiting: the next one who comes stops the server.
            self._users.release()
        if self._child is not None and not server_lock(self._folder).is_held_exclusively():
            await asyncio.to_thread(self._child.reaper.join, _REAPED_WITHIN_S)

    async def wait_for_exit(self) -> None:
        """Return when the server has ended, by whatever cause; then `stop` this use, and `start` again."""
        if self._child is not None:
            await self._child.exited.wait()
            return
        # Not our child, so there is nothing to await but its lock.
        await ends_within(server_lock(self._folder), math.inf)


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """The server whose files are `<data_dir>/postgres`.

    `bin_dir` is the folder of PostgreSQL's programs, by default the wheel's. `settings` are server
    settings that override ours. `system_dir` is where root puts what the unprivileged user that the server
    then runs as cannot reach elsewhere.
    """

    data_dir: Path
    bin_dir: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    system_dir: Path = SYSTEM_DIR

    async def start(self) -> RunningPostgres:
        """Join the server where somebody uses it, else start it; returns when it answers.

        A server whose users were all killed is stopped first. Raises Misconfigured where it cannot run
        here, Transient where a former server does not end or recovery takes longer than two minutes.
        """
        prepare_data_dir(self.data_dir)
        cluster = self._cluster()
        async with _starting_lock(cluster.folder).held(deadline_s=_STARTING_LOCK_S) as starting:
            child = None
            if not await _is_usable(cluster.folder):
                is_synced = self.settings.get("fsync") != "off"
                await asyncio.to_thread(cluster.create_if_missing, is_synced=is_synced, starting=starting)
                child = await launch(cluster, self.settings)
            postmaster = read_postmaster(cluster.folder)
            if postmaster is None:
                raise Transient(f"the PostgreSQL in {cluster.folder} has just ended; try again")
            users = _users_lock(cluster.folder)
            await users.acquire(shared=True, deadline_s=_ANSWER_WITHIN_S)
            return RunningPostgres(cluster, postmaster, users, child, self._notice(cluster))

    def _cluster(self) -> Cluster:
        account = server_account(self.data_dir)
        folder = cluster_folder(self.data_dir.resolve(), account, self.system_dir)
        binaries = find_binaries(self.bin_dir, cluster_version(folder))
        return Cluster(folder, reachable_binaries(binaries, account, self.system_dir), account)

    def _notice(self, cluster: Cluster) -> str | None:
        if cluster.account is None or not (self.data_dir / "postgres").is_symlink():
            return None
        return (
            f"PostgreSQL does not run as root, and user {cluster.account.name!r} cannot reach {self.data_dir}, so the "
            f"database is in {cluster.folder}; {self.data_dir / 'postgres'} is a link to it"
        )


@asynccontextmanager
async def connect_or_start(
    data_dir: Path, *, owner_starts_within_s: float = _OWNER_STARTS_WITHIN_S
) -> AsyncIterator[str]:
    """Yield the URL of the data folder's server: for short commands, any number at once, beside `up` or alone.

    While `eventsync up` holds the folder, only it starts the server; otherwise the first command does,
    and the last that leaves stops it. Raises Transient where `up` has no server within ten seconds.
    """
    await _wait_for_the_owner(data_dir, owner_starts_within_s)
    running = await EmbeddedPostgres(data_dir).start()
    try:
        yield running.url
    finally:
        await running.stop()


def embedded_database_url(data_dir: Path) -> str | None:
    """Return the URL (password included) of the data folder's server, None where none is running."""
    folder = (data_dir / "postgres").resolve()
    if not folder.is_dir() or not server_lock(folder).is_held_exclusively():
        return None
    postmaster = read_postmaster(folder)
    return server_url(folder, postmaster) if postmaster and postmaster.is_ready else None


async def _wait_for_the_owner(data_dir: Path, deadline_s: float) -> None:
    give_up_at = time.monotonic() + deadline_s
    while (owner := data_dir_holder(data_dir)) and embedded_database_url(data_dir) is None:
        if time.monotonic() > give_up_at:
            raise Transient(
                f"eventsync (pid {owner.pid}) has the data folder {data_dir}, but its PostgreSQL is not running; "
                "look at its output, or stop it and try again"
            )
        await asyncio.sleep(_WATCH_POLL_S)


async def _is_usable(folder: Path) -> bool:
    """Whether a server runs that others use; an orphan and one that was killed have ended afterwards."""
    lock = server_lock(folder)
    if not lock.is_held_exclusively():
        return False
    await _stop_if_unused(folder)
    if await _answers(folder):
        return True
    if not await ends_within(lock, _KILLED_SERVER_ENDS_WITHIN_S):
        raise Transient(
            f"the PostgreSQL in {folder} is running but does not answer; stop all eventsync commands on this "
            "folder and try again"
        )
    return False


async def _stop_if_unused(folder: Path) -> None:
    users = _users_lock(folder)
    if users.try_acquire():
        try:
            await stop_server(folder)
        finally:
            users.release()


async def _answers(folder: Path) -> bool:
    postmaster = read_postmaster(folder)
    if postmaster is None or not server_lock(folder).is_held_exclusively():
        return False
    try:
        connection = await asyncpg.connect(server_url(folder, postmaster), timeout=_ANSWER_WITHIN_S)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    await connection.close(timeout=_ANSWER_WITHIN_S)
    return True


def _starting_lock(folder: Path) -> FileLock:
    return FileLock(folder / "starting.lock")


def _users_lock(folder: Path) -> FileLock:
    return FileLock(folder / "users.lock")
