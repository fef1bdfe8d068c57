"""Waiting for something outside this process, where no signal can be awaited: bounded, and telling what it last saw."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

_POLL_S = 0.02


@overload
async def eventually(check: Callable[[], Awaitable[T]], deadline_s: float = ...) -> T: ...
@overload
async def eventually(check: Callable[[], T], deadline_s: float = ...) -> T: ...
async def eventually(check: Callable[[], T | Awaitable[T]], deadline_s: float = 10.0) -> T:
    """Call `check` until it answers something true, and return that.

    An AssertionError counts as "not yet". After `deadline_s` seconds raises AssertionError with the last
    value, or from the last assertion; any other exception of `check` is raised at once.
    """
    give_up_at = time.monotonic() + deadline_s
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        try:
            answer = check()
            value = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as error:
            failure = error
        else:
            if value:
                return value
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {deadline_s:g} s; the last value was {value!r}") from failure
        await asyncio.sleep(_POLL_S)
