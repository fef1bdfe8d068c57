"""Who may use a data folder now: locks of the operating system, which end with their process however it dies."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from eventsync.domain.errors import Misconfigured, Transient

_RETRY_EVERY_S = 0.02


class FileLock:
    """One `flock` on one file, exclusive or shared; the file stays behind and means nothing by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file that holds the lock: a child process that inherits it holds the lock as well."""
        if self._descriptor is None:
            raise RuntimeError(f"the lock {self.path} is not held")
        return self._descriptor

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock now or not at all; the caller must not hold it through this object yet."""
        if self._descriptor is not None:
            raise RuntimeError(f"the lock {self.path} is held already")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Close our open file; children that inherited it keep the lock. Does nothing where not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def is_held_exclusively(self) -> bool:
        """Whether some process holds the lock for itself alone, this one included."""
        probe = FileLock(self.path)
        if not probe.try_acquire(shared=True):
            return True
        probe.release()
        return False

    async def acquire(self, *, shared: bool = False, deadline_s: float) -> None:
        """Take the lock, waiting up to `deadline_s` seconds; raises Transient after that."""
        give_up_at = time.monotonic() + deadline_s
        while not self.try_acquire(shared=shared):
            if time.monotonic() > give_up_at:
                raise Transient(
                    f"{self.path} has been locked by another process for {deadline_s:g} s; "
                    f"see who holds it with `fuser {self.path}` and try again"
                )
            await asyncio.sleep(_RETRY_EVERY_S)

    @asynccontextmanager
    async def held(self, *, deadline_s: float) -> AsyncIterator[Self]:
        """Hold the lock exclusively for the length of a block; raises Transient after `deadline_s` seconds."""
        await self.acquire(deadline_s=deadline_s)
        try:
            yield self
        finally:
            self.release()


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that keeps a data folder for itself."""

    pid: int
    started_at: str


class DataDirLock:
    """The right to run `eventsync up` on a data folder: one process at a time, named by pid and start time.

    A context manager. The lock ends with the process, also by `kill -9`, so it is never stale.
    """

    def __init__(self, data_dir: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._data_dir = data_dir
        self._now = now
        self._lock = FileLock(data_dir / "lock")

    def acquire(self) -> None:
        """Take the folder, which is made where it is missing.

        Raises Misconfigured, naming the other process, where somebody has it.
        """
        prepare_data_dir(self._data_dir)
        if not self._lock.try_acquire():
            raise Misconfigured(_taken_message(self._data_dir))
        record = {"pid": os.getpid(), "started_at": self._now().isoformat(timespec="seconds")}
        os.ftruncate(self._lock.descriptor, 0)
        os.pwrite(self._lock.descriptor, json.dumps(record).encode(), 0)

    def release(self) -> None:
        """Let the next one have the folder."""
        self._lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def data_dir_holder(data_dir: Path) -> LockHolder | None:
    """Return the process that holds the folder's DataDirLock now, None where nobody does."""
    lock = FileLock(data_dir / "lock")
    if not lock.path.exists() or not lock.is_held_exclusively():
        return None
    try:
        record = json.loads(lock.path.read_bytes())
        return LockHolder(pid=int(record["pid"]), started_at=str(record["started_at"]))
    except (ValueError, KeyError):
        # The holder has the lock but has not written its record yet: a matter of microseconds.
        return LockHolder(pid=0, started_at="just now")


def prepare_data_dir(data_dir: Path) -> None:
    """Make the data folder (only its owner may look into it) with its parents; raises Misconfigured."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(
            f"the data folder {data_dir} cannot be made ({error.strerror}); choose another with --data-dir"
        ) from error
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise Misconfigured(
            f"the data folder {data_dir} is not writable for this user; change its owner or choose another "
            "with --data-dir"
        )


def _taken_message(data_dir: Path) -> str:
    holder = data_dir_holder(data_dir)
    who = f"pid {holder.pid}, since {holder.started_at}" if holder else "it has just ended"
    return (
        f"another eventsync already runs on the data folder {data_dir} ({who}); "
        "stop it first, or choose another folder with --data-dir"
    )
