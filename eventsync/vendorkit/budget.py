"""The budget of a vendor's API calls, as those who spend it see it; postgres/budget keeps the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NewType, Protocol

from eventsync.domain.errors import Transient

ReservationId = NewType("ReservationId", int)


class Purpose(StrEnum):
    """What a call is spent on; each purpose has an allowance of its own."""

    REFETCH = "refetch"
    SWEEP = "sweep"
    MANUAL = "manual"
    BACKFILL = "backfill"
    CHECK = "check"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one purpose may take, as fractions of the key's limits; each of them allows at least one call.

    `share` is how much of the day may be its own. `day_ceiling` and `minute_ceiling` are how full the whole day and
    minute may be, all purposes together, before it leaves the rest to others.
    """

    share: float = 1.0
    day_ceiling: float = 1.0
    minute_ceiling: float = 1.0


# What nobody waits for stops first, so that the last calls are a person's; see Allowance.
DEFAULT_ALLOWANCES: Mapping[Purpose, Allowance] = MappingProxyType(
    {
        Purpose.REFETCH: Allowance(share=0.6, day_ceiling=0.88),
        Purpose.SWEEP: Allowance(share=0.86, day_ceiling=0.86, minute_ceiling=0.8),
        Purpose.MANUAL: Allowance(share=0.3),
        Purpose.BACKFILL: Allowance(share=0.6, day_ceiling=0.82, minute_ceiling=0.8),
        Purpose.CHECK: Allowance(share=0.05),
        Purpose.DELIVERY: Allowance(),
    }
)


class BudgetSpent(Transient):
    """Our own allowance has no place for the call now: nothing was sent, and nothing went wrong."""


class Budget(Protocol):
    """One API key's allowance: a call is reserved before it is made, and a crash after that counts as spent."""

    async def reserve(self, purpose: Purpose) -> ReservationId:
        """Reserve one call. Raises BudgetSpent with `retry_after_s` when there is no place for it."""

    async def finish(self, reservation: ReservationId) -> None:
        """Note that the call has been answered: its place in the vendor's minute starts no later than now."""

    async def refused(self, retry_after_s: float) -> None:
        """Note the vendor's 429: no call before `retry_after_s` seconds are over."""
