"""Waiting has an end, also for work that does not end when it is cancelled."""

from __future__ import annotations

import asyncio
import time

import pytest

from eventsync.domain.errors import Transient
from eventsync.stages.patience import Patience


async def answer() -> int:
    return 7


async def fail() -> int:
    raise Transient("away")


class Clinging:
    """Work that goes on after its cancellation, as a driver's clean-up on a half-open link does."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.has_ended = False

    async def work(self) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_end.wait()
            self.has_ended = True
        return 0


async def test_what_is_done_in_time_gives_its_result_or_error() -> None:
    patience = Patience(5.0)
    assert await patience.wait_for(answer()) == 7
    with pytest.raises(Transient):
        await patience.wait_for(fail())
    await patience.close()


async def test_what_clings_to_life_is_left_behind_and_still_awaited_at_the_end() -> None:
    patience, clinging = Patience(0.05), Clinging()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await patience.wait_for(clinging.work())
    assert time.monotonic() - began < 1.0
    assert not clinging.has_ended
    clinging.may_end.set()
    await patience.close()
    assert clinging.has_ended


async def test_closing_does_not_wait_for_ever_either() -> None:
    patience, clinging = Patience(0.05), Clinging()
    with pytest.raises(TimeoutError):
        await patience.wait_for(clinging.work())
    began = time.monotonic()
    await patience.close()
    assert time.monotonic() - began < 1.0
    clinging.may_end.set()


async def test_a_cancelled_wait_cancels_the_work_at_once() -> None:
    patience, clinging = Patience(60.0), Clinging()
    waiting = asyncio.create_task(patience.wait_for(clinging.work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clinging.may_end.set()
    await patience.close()
    assert clinging.has_ended
