"""The lock of a spool: one process at a time, released by the kernel however that process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from eventsync.domain.errors import Misconfigured


def lock_exclusively(path: Path) -> int:
    """Lock `path` and return the descriptor that holds the lock until `release`. Raises Misconfigured if it is held.

    It is a file of its own, since the spool's may be moved aside while the lock must stay.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Misconfigured(
            f"another process uses the spool that {path} locks: stop it, or give this one a folder of its own"
            " with EVENTSYNC_DATA_DIR"
        ) from error
    return descriptor


def release(descriptor: int) -> None:
    """Give the lock back."""
    os.close(descriptor)
