"""The embedded PostgreSQL's process: started, watched, found again after its parent was killed, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.cluster import DEFAULT_SETTINGS, Cluster
from eventsync.postgres.data_lock import FileLock
from eventsync.postgres.server_place import SOCKET_FOLDER_PREFIX, socket_folder

# Crash recovery comes before "ready".
_READY_WITHIN_S = 120.0
_LOCK_FREE_WITHIN_S = 5.0
_POLL_S = 0.01
_LOG_FILE_MAX_BYTES = 10_000_000
# Fast shutdown (sessions are ended, a checkpoint is written), immediate shutdown, and the kernel's word.
_STOP_SIGNALS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a running (or killed) server has written about itself into `postmaster.pid`."""

    pid: int
    port: int
    socket_folder: Path
    is_ready: bool


def read_postmaster(cluster: Path) -> Postmaster | None:
    """Read `postmaster.pid` in the cluster's folder; None where there is none, or another data directory's.

    The file outlives a killed server: whether one runs is told by `server_lock`, not by this.
    """
    data = cluster / "data"
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        found = Postmaster(
            pid=int(lines[0]),
            port=int(lines[3]),
            socket_folder=Path(lines[4]),
            is_ready=len(lines) > 7 and lines[7].strip() == "ready",
        )
    except (FileNotFoundError, IndexError, ValueError):
        # None there, or a server that is just starting: it writes the file in several steps.
        return None
    return found if Path(lines[1]) == data else None


def server_lock(cluster: Path) -> FileLock:
    """Return the lock that the server's processes hold, all of them, until the last has ended."""
    return FileLock(cluster / "server.lock")


def server_url(cluster: Path, postmaster: Postmaster) -> str:
    """Return the address of a running server's database, with its password: for drivers, not for logs."""
    password = (cluster / "password").read_text().strip()
    host = quote(str(postmaster.socket_folder), safe="/")
    return f"postgresql://eventsync:{password}@/eventsync?host={host}&port={postmaster.port}"


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """The server as our child: `exited` wakes who waits on this event loop, `reaper` ends on any."""

    exited: asyncio.Event
    reaper: threading.Thread


async def launch(cluster: Cluster, settings: Mapping[str, str]) -> ServerProcess:
    """Start the cluster's server and return when it answers.

    Nobody may be starting or stopping it meanwhile. Raises Misconfigured, with the log's last lines, where
    it ends at once, and Transient where it is not ready within two minutes.
    """
    _clear_away_killed_server(cluster.folder)
    _bound_log(cluster.log_folder)
    lock = server_lock(cluster.folder)
    await lock.acquire(deadline_s=_LOCK_FREE_WITHIN_S)
    try:
        process = _spawn(cluster, settings, lock)
    finally:
        # The server has inherited it.
        lock.release()
    child = _watch(process)
    try:
        await _wait_until_ready(cluster, process.pid, child.exited)
    except BaseException:  # failed or cancelled, raised again: nobody would know of this server
        process.kill()
        raise
    return child


def _spawn(cluster: Cluster, settings: Mapping[str, str], lock: FileLock) -> subprocess.Popen[bytes]:
    folder = str(socket_folder(cluster.folder, cluster.account)).replace('"', '""')
    places = {"unix_socket_directories": f'"{folder}"', "log_directory": str(cluster.log_folder)}
    chosen = {**DEFAULT_SETTINGS, **settings, **places}
    options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
    account = cluster.account
    with (cluster.folder / "startup.log").open("wb") as output:
        return subprocess.Popen(  # noqa: S603  (the program is the wheel's or the caller's own)
            [str(cluster.binaries / "postgres"), "-D", str(cluster.data), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock.descriptor,),
            # Ctrl-C in the terminal is for us: the server ends when we say so.
            start_new_session=True,
            cwd=cluster.folder,
            env=cluster.environment,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=() if account else None,
        )


def _watch(process: subprocess.Popen[bytes]) -> ServerProcess:
    """Reap the child whenever it ends; a thread of its own, since the server may outlive the event loop."""
    exited = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reap() -> None:
        process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(exited.set)

    reaper = threading.Thread(target=reap, name=f"reap-postgres-{process.pid}", daemon=True)
    reaper.start()
    return ServerProcess(exited, reaper)


async def _wait_until_ready(cluster: Cluster, pid: int, exited: asyncio.Event) -> None:
    give_up_at = time.monotonic() + _READY_WITHIN_S
    while True:
        postmaster = read_postmaster(cluster.folder)
        if postmaster is not None and postmaster.pid == pid and postmaster.is_ready:
            return
        if exited.is_set():
            raise Misconfigured(f"PostgreSQL did not start; it says:\n{_last_words(cluster)}")
        if time.monotonic() > give_up_at:
            raise Transient(
                f"PostgreSQL was not ready after {_READY_WITHIN_S:g} s (a long recovery, or a slow disk); its log "
                f"is in {cluster.log_folder}; try again"
            )
        await asyncio.sleep(_POLL_S)


def _last_words(cluster: Cluster) -> str:
    logs = sorted(cluster.log_folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    texts = [path.read_text(errors="replace") for path in (cluster.folder / "startup.log", *logs[-1:])]
    return "\n".join(line for text in texts for line in text.strip().splitlines()[-5:])


async def stop_server(cluster: Path) -> None:
    """End the running server, whoever started it; returns when all its processes have ended.

    Asks for a fast shutdown, after 20 s for an immediate one, and kills 5 s later. Raises Transient where
    a process lives on 5 s after that.
    """
    lock = server_lock(cluster)
    for stop_signal, deadline_s in _STOP_SIGNALS:
        postmaster = read_postmaster(cluster)
        if postmaster is not None and lock.is_held_exclusively():
            with contextlib.suppress(ProcessLookupError):  # it ended by itself at this moment
                os.kill(postmaster.pid, stop_signal)
        if await ends_within(lock, deadline_s):
            if postmaster is not None:
                _remove_socket_folder(cluster, postmaster.socket_folder)
            return
    raise Transient(
        f"PostgreSQL in {cluster} does not end; see its processes with `fuser {lock.path}`, end them, and try again"
    )


async def ends_within(lock: FileLock, deadline_s: float) -> bool:
    """Whether all processes of the server have ended, waiting for it up to `deadline_s` seconds (or `inf`)."""
    give_up_at = time.monotonic() + deadline_s
    while lock.is_held_exclusively():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _clear_away_killed_server(cluster: Path) -> None:
    """Remove what a killed server left; the caller knows by the lock that none of ours is running.

    PostgreSQL itself would take the stale files for a running server's where their number still belongs to
    a process that nobody has reaped, or again to one of the same user, as happens in a restarted container.
    """
    left = cluster / "data" / "postmaster.pid"
    if not left.exists() or _may_serve(left, cluster / "data"):
        return
    if (postmaster := read_postmaster(cluster)) is not None:
        _remove_socket_folder(cluster, postmaster.socket_folder)
    _remove_socket_folder(cluster, cluster / "socket")
    left.unlink()


def _may_serve(pid_file: Path, data: Path) -> bool:
    """Whether the process may be a server of this data directory, started by hand; PostgreSQL then refuses."""
    try:
        # Killed early, a server leaves a file that is cut off, even before its first line.
        pid = int(pid_file.read_text().partition("\n")[0])
        # A server works in its data directory; a process that is dead but not reaped works nowhere.
        return Path(f"/proc/{pid}/cwd").readlink() == data
    except ValueError:
        return False
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # Where there is no /proc (macOS), PostgreSQL's own check must do.
        return not Path("/proc/self").exists()


def _remove_socket_folder(cluster: Path, folder: Path) -> None:
    """Remove the socket with its own lock file, where we made the folder (a server started by hand has another)."""
    if folder == cluster / "socket" or folder.name.startswith(SOCKET_FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _bound_log(folder: Path) -> None:
    """Drop log files that have grown too large; within a run, the server begins one file a weekday anew."""
    for path in folder.glob("*.log"):
        if path.stat().st_size > _LOG_FILE_MAX_BYTES:
            path.unlink()
