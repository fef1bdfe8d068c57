"""Holds on to what the bus has delivered, or a vendor has answered, while PostgreSQL is away or refuses us.

Giving a delivery back at each failure would count up the broker's delivery limit, until a short outage had made dead
letters of hundreds of good messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from eventsync.domain.errors import Misconfigured, Transient

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


async def hold_while_away(work: Callable[[], Awaitable[T]]) -> T:
    """Do `work` again, with growing pauses, as long as PostgreSQL is away or refuses us; other errors are raised.

    A task that is being cancelled does not begin anew: over a link that breaks, the driver can lose the cancellation.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except (Transient, Misconfigured) as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from error
            _log.warning("holding_on", error=str(error), pause_s=pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
