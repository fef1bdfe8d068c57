"""Waits for a neighbour's answer only so long: what hangs is cancelled, left behind, and kept until it has ended.

`asyncio.timeout` is not enough where the work talks to PostgreSQL: on a half-open link its driver takes seconds more to
give up a cancelled query, and whoever waits would wait along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Waits up to `limit_s` seconds for each piece of work."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._left_behind: set[asyncio.Task[Any]] = set()

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`. Raises TimeoutError after `limit_s` seconds at the latest, whatever the work does then."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self.limit_s)
        finally:
            if not task.done():
                self._leave_behind(task)
        if task in self._left_behind:
            raise TimeoutError
        return task.result()

    async def close(self) -> None:
        """Give what was left behind a last `limit_s` seconds to end."""
        if self._left_behind:
            await asyncio.wait(self._left_behind, timeout=self.limit_s)

    def _leave_behind(self, task: asyncio.Task[Any]) -> None:
        self._left_behind.add(task)
        task.add_done_callback(self._ended)
        task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left_behind.discard(task)
        if not task.cancelled():
            task.exception()  # nobody waits for the outcome any more
