"""One of several works that go on side by side, one at a time: each stops where it waits for the practice's answer.

Only the strand that was let on runs until it stops again, so that one seed gives one order of everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

from simulation.fate import Killed

_CURRENT: ContextVar[Strand | None] = ContextVar("current strand", default=None)


class Strand:
    """A piece of work in a task of its own; `told` is what it has to say once it has ended."""

    def __init__(self, name: str, work: Coroutine[Any, Any, str]) -> None:
        self.name = name
        self.told = "waits"
        self.is_waiting = False  # for an answer, no more only for its start
        self.has_read = ""  # the API path whose answer, which grows old, is on its way
        self._go = asyncio.Event()
        self._stopped = asyncio.Event()
        self._is_killed = False
        self._task = asyncio.create_task(self._run(work))

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to let on."""
        return self._task.done()

    async def go_on(self, *, killed: bool = False) -> str:
        """Let it run until it waits again or ends; with `killed` its process ends where it waits. Raises its errors."""
        self._is_killed = killed
        self._stopped.clear()
        self._go.set()
        await self._stopped.wait()
        if self.told != "waits":
            await self._task  # its last lines, and its error
        return self.told

    async def _run(self, work: Coroutine[Any, Any, str]) -> None:
        _CURRENT.set(self)
        try:
            await self._go.wait()
            self._go.clear()
            self.told = await work
        except BaseException as error:
            self.told = type(error).__name__
            raise
        finally:
            self._stopped.set()

    async def _wait(self) -> None:
        self._stopped.set()
        await self._go.wait()
        self._go.clear()
        if self._is_killed:
            raise Killed("its process was killed while it waited")


async def wait_for_the_practice(has_read: str = "") -> None:
    """Stop the current strand, if any, in its call of the practice's API until it is let on."""
    strand = _CURRENT.get()
    if strand is not None:
        strand.is_waiting = True
        strand.has_read = has_read
        await strand._wait()
        strand.has_read = ""
