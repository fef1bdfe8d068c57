"""What is held on to while PostgreSQL is away is let go where its task is cancelled, whatever the driver says."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.domain.errors import Rejected, Transient
from eventsync.stages.holding import hold_while_away


async def test_work_is_tried_again_until_the_database_is_back() -> None:
    failures = [Transient("away"), Transient("away still")]

    async def work() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert await hold_while_away(work) == "done"


async def test_what_is_wrong_with_the_work_itself_is_raised() -> None:
    async def work() -> None:
        raise Rejected("database_refused", "a value is refused")

    with pytest.raises(Rejected):
        await hold_while_away(work)


async def test_a_cancellation_that_a_broken_link_swallowed_ends_the_holding() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Transient("the link broke while the query was being cancelled") from None

    holding = asyncio.create_task(hold_while_away(work))
    await began.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await holding
