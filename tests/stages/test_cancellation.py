"""Being stopped in the middle: work in hand ends in order, or is ended."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.stages.cancellation import finish_before_cancel


async def test_work_gives_its_result_and_its_errors() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise LookupError

    assert await finish_before_cancel(good()) == 7
    with pytest.raises(LookupError):
        await finish_before_cancel(bad())


async def test_a_cancelled_caller_waits_for_its_work_to_end() -> None:
    begun, gate, steps = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        await gate.wait()
        steps.append("work")

    task = asyncio.create_task(finish_before_cancel(work()))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["work"]


@pytest.mark.parametrize("twice", [False, True])
async def test_when_the_grace_is_over_or_the_caller_insists_the_work_itself_is_cancelled_and_has_ended(
    *, twice: bool
) -> None:
    begun, steps = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    task = asyncio.create_task(finish_before_cancel(work(), grace_s=30.0 if twice else 0.05))
    await begun.wait()
    task.cancel()
    if twice:
        await asyncio.wait({task}, timeout=0.05)
        task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert steps == ["cleaned up"]


async def test_an_error_after_the_cancelling_is_not_left_to_the_event_loop() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await gate.wait()
        raise LookupError

    task = asyncio.create_task(finish_before_cancel(work()))
    await begun.wait()
    task.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
