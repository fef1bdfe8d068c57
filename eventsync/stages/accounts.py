"""A connection's account at its vendor for the length of one run, with what the run has spent of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from eventsync.domain.connections import Connection
from eventsync.domain.runs import SyncType
from eventsync.vendorkit.vendor import VendorClient


class Spent(Protocol):
    """What a run's budget has counted, and how many calls it lets the run make (None: as many as the day allows)."""

    calls: int
    rate_limit_hits: int
    most_calls: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """An open account. `calls_left` tells how many calls the day has left, None where there is no daily cap."""

    client: VendorClient
    spent: Spent
    calls_left: Callable[[], Awaitable[int | None]]


OpenAccount = Callable[[Connection, SyncType], Account]
