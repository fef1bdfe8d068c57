"""A time that all processes of a test share and that runs faster: leases and waits of minutes end within seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class FastTime:
    """`speed` seconds go by in each real one since `began_s` (Unix seconds), when it was the real time."""

    began_s: float
    speed: float

    def now(self) -> datetime:
        """Tell the time, as the product's Clock does."""
        return datetime.fromtimestamp(self.began_s, UTC) + timedelta(seconds=(time.time() - self.began_s) * self.speed)

    def monotonic(self) -> float:
        """Tell seconds that no clock's setting moves, as time.monotonic does."""
        return time.monotonic() * self.speed
