"""What the spool holds, as a value for health and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """A snapshot after the last operation.

    `count` and `unverified_count` are entries by lane, those set aside included; `damaged_count` of them do not open
    and wait for an earlier key and a restart. `oldest_received_at` leaves those out. `put_transactions` counts commits
    of entries since the start (several puts share one), `refused_count` the puts that found no room.
    `damaged_files` are the files moved aside since the start.
    """

    count: int = 0
    unverified_count: int = 0
    damaged_count: int = 0
    used_bytes: int = 0
    max_bytes: int = 0
    oldest_received_at: datetime | None = None
    put_transactions: int = 0
    refused_count: int = 0
    damaged_files: tuple[Path, ...] = ()

    @property
    def waiting_count(self) -> int:
        """How many entries of both lanes can be drained."""
        return self.count + self.unverified_count - self.damaged_count

    @property
    def fullness(self) -> float:
        """How full the file is, from 0 to 1."""
        return min(1.0, self.used_bytes / self.max_bytes) if self.max_bytes else 0.0
