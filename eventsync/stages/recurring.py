"""Does one chore again and again, for the scheduler role; each chore is idempotent, so that several may run it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Recurring:
    """A chore with its rhythm. It runs at the start too, since a machine may be restarted more often than it is due."""

    def __init__(self, name: str, chore: Callable[[], Awaitable[object]], *, interval_s: float) -> None:
        self.name = name
        self._chore = chore
        self._interval_s = interval_s

    async def run(self) -> None:
        """Do the chore for ever. Raises what the chore raises: run it again."""
        while True:
            await self._chore()
            await asyncio.sleep(self._interval_s)
