"""Where a server keeps what no test needs afterwards: in memory, where the machine has such a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_MEMORY = Path("/dev/shm")  # noqa: S108  # Linux has it; everyone may write there, and root's servers reach it
_ROOM_BYTES = 3 << 30  # twice what two runs of the tests hold at their most; containers often give much less


@contextmanager
def fast_folder() -> Iterator[Path]:
    """Make a folder that an unprivileged server can reach also where we are root; it is gone after the block.

    On a disk, making and dropping a database of 500 files for each test is half of the work of many test folders;
    in memory it is a few milliseconds. The path is short, as sockets need it.
    """
    has_room = _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="evs-", dir=_IN_MEMORY if has_room else None))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
