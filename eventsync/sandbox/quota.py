"""The vendor's limit on API calls, counted in the sandbox's time."""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

MINUTE_MS = 60_000
DAY_MS = 86_400_000


class QuotaWindow(StrEnum):
    """How the vendor counts: in any span of that length, or from each full minute and each midnight UTC."""

    SLIDING = "sliding"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """Calls allowed; None means no limit. `retry_after` decides whether a 429 names the wait."""

    per_minute: int | None = 10
    per_day: int | None = 500
    window: QuotaWindow = QuotaWindow.SLIDING
    retry_after: bool = True


class Quota:
    """Counts accepted calls; refused ones are not counted."""

    def __init__(self, limits: QuotaLimits) -> None:
        self.limits = limits
        self._minute: deque[int] = deque()
        self._day: deque[int] = deque()

    def take(self, now_ms: int) -> int | None:
        """Count a call and return None, or refuse it and return the whole seconds until one is free."""
        waits_ms = (
            self._wait_ms(self._minute, self.limits.per_minute, MINUTE_MS, now_ms),
            self._wait_ms(self._day, self.limits.per_day, DAY_MS, now_ms),
        )
        wait_ms = max(waits_ms)
        if wait_ms > 0:
            return math.ceil(wait_ms / 1000)
        if self.limits.per_minute is not None:
            self._minute.append(now_ms)
        if self.limits.per_day is not None:
            self._day.append(now_ms)
        return None

    def _wait_ms(self, calls: deque[int], limit: int | None, span_ms: int, now_ms: int) -> int:
        if limit is None:
            return 0
        fixed = self.limits.window is QuotaWindow.FIXED
        oldest_ms = now_ms - now_ms % span_ms if fixed else now_ms - span_ms + 1
        while calls and calls[0] < oldest_ms:
            calls.popleft()
        if len(calls) < limit:
            return 0
        if fixed or not calls:
            return span_ms - now_ms % span_ms
        return calls[0] + span_ms - now_ms
