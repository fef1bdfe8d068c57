"""A budget that waits: what a run spends its calls through, so that the minute's limit slows it and ends nothing.

Stands between a run's VendorHttp and the ledger, and counts what the run's row will tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from eventsync.vendorkit.budget import Budget, BudgetSpent, Purpose, ReservationId

LONGEST_WAIT_S = 130.0  # a minute's window with its slowest call, or the first two closures after a 429
_SHORTEST_PAUSE_S = 0.05  # the loop's clock and the ledger's differ a little: do not spin on the last milliseconds


class WaitingBudget:
    """`budget` for one run: waits for a place that is near, and lets BudgetSpent through where it is far.

    With `most_calls` set, the run may make so many in all. `calls` counts what was reserved, `waited_s` the seconds
    spent in pauses, `rate_limit_hits` the vendor's 429s.
    A day that is spent is near too while yesterday's calls leave it one by one: today's run then goes at their pace.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        longest_wait_s: float = LONGEST_WAIT_S,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._budget = budget
        self._longest_wait_s = longest_wait_s
        self._pause = pause
        self.calls = 0
        self.most_calls: int | None = None
        self.waited_s = 0.0
        self.rate_limit_hits = 0

    async def reserve(self, purpose: Purpose) -> ReservationId:
        """Reserve one call, however often its place is taken by others meanwhile.

        Raises BudgetSpent where the next place is more than `longest_wait_s` away: the run must stop cleanly.
        """
        if self.most_calls is not None and self.calls >= self.most_calls:
            raise BudgetSpent(f"the {self.most_calls} calls that this run may make are made")
        while True:
            try:
                reservation = await self._budget.reserve(purpose)
            except BudgetSpent as spent:
                if spent.retry_after_s is None or spent.retry_after_s > self._longest_wait_s:
                    raise
                wait_s = max(spent.retry_after_s, _SHORTEST_PAUSE_S)
            else:
                self.calls += 1
                return reservation
            await self._pause(wait_s)
            self.waited_s += wait_s

    async def finish(self, reservation: ReservationId) -> None:
        """Note that the call has been answered."""
        await self._budget.finish(reservation)

    async def refused(self, retry_after_s: float) -> None:
        """Note the vendor's 429."""
        self.rate_limit_hits += 1
        await self._budget.refused(retry_after_s)
