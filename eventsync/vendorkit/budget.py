"""The budget of a vendor's API calls, as those who spend it see it; postgres/budget keeps the ledger."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType, Protocol

from eventsync.domain.errors import Transient

ReservationId = NewType("ReservationId", int)


class Purpose(StrEnum):
    """What a call is spent on; each purpose has a share of the day."""

    REFETCH = "refetch"
    SWEEP = "sweep"
    MANUAL = "manual"
    BACKFILL = "backfill"
    CHECK = "check"


class BudgetSpent(Transient):
    """Our own allowance has no place for the call now: nothing was sent, and nothing went wrong."""


class Budget(Protocol):
    """One API key's allowance: a call is reserved before it is made, and a crash after that counts as spent."""

    async def reserve(self, purpose: Purpose) -> ReservationId:
        """Reserve one call. Raises BudgetSpent with `retry_after_s` when the minute, the day or the share is spent."""

    async def finish(self, reservation: ReservationId) -> None:
        """Note that the call has been answered: its place in the vendor's minute starts no later than now."""

    async def refused(self, retry_after_s: float) -> None:
        """Note the vendor's 429: no call before `retry_after_s` seconds are over."""
