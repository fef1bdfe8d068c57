"""Lets a unit of work end in order although its worker is being stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

_CANCELLING_TIMEOUT_S = 5.0


async def finish_before_cancel(work: Coroutine[object, object, T], *, grace_s: float = 10.0) -> T:
    """Await `work`; when cancelled meanwhile, let it go on for up to `grace_s` seconds before giving way.

    A second cancellation, or the end of the grace, cancels the work itself; either way it has ended when this returns.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task}, timeout=grace_s)
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCELLING_TIMEOUT_S)
            if task.done() and not task.cancelled():
                task.exception()  # the caller is being stopped: the result, good or bad, has no one to go to
        raise
