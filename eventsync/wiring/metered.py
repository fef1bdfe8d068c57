"""A budget that counts in the metrics what becomes of the calls that are asked of it."""

from __future__ import annotations

from eventsync.telemetry import Metrics
from eventsync.vendorkit.budget import Budget, BudgetSpent, Purpose, ReservationId


class MeteredBudget:
    """`budget`, with a count by vendor, purpose and result: reserved, budget_spent, refused (by the vendor)."""

    def __init__(self, budget: Budget, vendor: str, metrics: Metrics) -> None:
        self._budget = budget
        self._vendor = vendor
        self._calls = metrics.api_calls

    async def reserve(self, purpose: Purpose) -> ReservationId:
        """Reserve one call. Raises BudgetSpent where there is no place for it."""
        try:
            reservation = await self._budget.reserve(purpose)
        except BudgetSpent:
            self._calls.labels(vendor=self._vendor, purpose=purpose.value, result="budget_spent").inc()
            raise
        self._calls.labels(vendor=self._vendor, purpose=purpose.value, result="reserved").inc()
        return reservation

    async def finish(self, reservation: ReservationId) -> None:
        """Note that the call has been answered."""
        await self._budget.finish(reservation)

    async def refused(self, retry_after_s: float) -> None:
        """Note the vendor's 429."""
        self._calls.labels(vendor=self._vendor, purpose="any", result="refused").inc()
        await self._budget.refused(retry_after_s)
