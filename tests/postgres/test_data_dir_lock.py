"""One `up` at a time on a data folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import eventsync
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.data_lock import DataDirLock, FileLock, data_dir_holder, prepare_data_dir

HOLDER = """
import sys
from pathlib import Path
from eventsync.postgres.data_lock import DataDirLock

with DataDirLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def start_holder(data_dir: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(  # noqa: S603  (our own interpreter and script)
        [sys.executable, "-c", HOLDER, str(data_dir)],
        env={**os.environ, "PYTHONPATH": str(Path(eventsync.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_up_is_refused_and_told_who_has_the_folder(data_dir: Path) -> None:
    holder = start_holder(data_dir)
    with pytest.raises(Misconfigured, match=f"pid {holder.pid}, since 20.*--data-dir"):
        DataDirLock(data_dir).acquire()
    holder.communicate(timeout=10)
    with DataDirLock(data_dir):
        pass


def test_a_killed_holder_leaves_no_stale_lock(data_dir: Path) -> None:
    holder = start_holder(data_dir)
    holder.kill()
    holder.communicate(timeout=10)
    assert data_dir_holder(data_dir) is None
    with DataDirLock(data_dir):
        pass


def test_the_holder_is_known_by_pid_and_start_time(data_dir: Path) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert data_dir_holder(data_dir) is None
    with DataDirLock(data_dir, now=lambda: noon):
        holder = data_dir_holder(data_dir)
    assert holder is not None
    assert (holder.pid, holder.started_at) == (os.getpid(), "2026-03-01T12:00:00+00:00")
    assert data_dir_holder(data_dir) is None


def test_a_record_that_is_not_written_yet_still_counts_as_held(data_dir: Path) -> None:
    data_dir.mkdir()
    lock = FileLock(data_dir / "lock")
    assert lock.try_acquire()
    assert data_dir_holder(data_dir) is not None
    lock.release()


def test_the_data_folder_is_made_for_its_owner_alone(data_dir: Path) -> None:
    with DataDirLock(data_dir / "below"):
        assert stat.S_IMODE((data_dir / "below").stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "below" / "lock").stat().st_mode) == 0o600


def test_a_data_folder_that_cannot_be_made_is_explained(data_dir: Path) -> None:
    data_dir.write_text("a file in the way")
    with pytest.raises(Misconfigured, match="choose another with --data-dir"):
        DataDirLock(data_dir).acquire()


def test_shared_holders_exclude_only_an_exclusive_one(data_dir: Path) -> None:
    data_dir.mkdir()
    first, second, exclusive = (FileLock(data_dir / "users.lock") for _ in range(3))
    assert first.try_acquire(shared=True)
    assert second.try_acquire(shared=True)
    assert not exclusive.try_acquire()
    first.release()
    second.release()
    assert exclusive.try_acquire()
    exclusive.release()


async def test_waiting_for_a_lock_has_an_end(data_dir: Path) -> None:
    prepare_data_dir(data_dir)
    held, wanted = FileLock(data_dir / "starting.lock"), FileLock(data_dir / "starting.lock")
    assert held.try_acquire()
    with pytest.raises(Transient, match=r"starting\.lock"):
        await wanted.acquire(deadline_s=0.1)
    held.release()
    async with wanted.held(deadline_s=0.1):
        assert held.is_held_exclusively()
