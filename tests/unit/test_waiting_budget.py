"""A run's budget waits for a place that is near, stops where it is far, and lets a walk survive a 429."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from eventsync.vendorkit.budget import BudgetSpent, Purpose, ReservationId
from eventsync.vendorkit.http import RateLimited, VendorHttp
from eventsync.vendorkit.waiting import LONGEST_WAIT_S, WaitingBudget
from unit.vendor_server import Answer, vendor_server


@dataclass
class ClosedBudget:
    """Grants a call unless it is closed; time passes only in `pause`."""

    now_s: float = 0.0
    closed_until_s: float = 0.0
    names_no_time: bool = False
    reserved: list[Purpose] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    async def reserve(self, purpose: Purpose) -> ReservationId:
        if self.closed_until_s > self.now_s:
            wait_s = None if self.names_no_time else self.closed_until_s - self.now_s
            raise BudgetSpent("closed", retry_after_s=wait_s)
        self.reserved.append(purpose)
        return ReservationId(len(self.reserved))

    async def finish(self, reservation: ReservationId) -> None:
        self.finished.append(reservation)

    async def refused(self, retry_after_s: float) -> None:
        self.closed_until_s = max(self.closed_until_s, self.now_s + retry_after_s)

    async def pause(self, wait_s: float) -> None:
        self.pauses_s.append(wait_s)
        self.now_s += wait_s


def waiting(ledger: ClosedBudget, **options: Any) -> WaitingBudget:
    return WaitingBudget(ledger, pause=ledger.pause, **options)


async def test_a_near_place_is_waited_for_and_counted() -> None:
    ledger = ClosedBudget(closed_until_s=62.0)
    run = waiting(ledger)
    await run.finish(await run.reserve(Purpose.SWEEP))
    await run.reserve(Purpose.BACKFILL)
    assert (run.calls, run.waited_s, run.rate_limit_hits) == (2, 62.0, 0)
    assert ledger.reserved == [Purpose.SWEEP, Purpose.BACKFILL]
    assert (ledger.pauses_s, ledger.finished) == ([62.0], [1])


async def test_a_place_that_others_take_meanwhile_is_waited_for_again() -> None:
    ledger = ClosedBudget(closed_until_s=10.0)
    others = [20.0, 5.0]

    async def pause(wait_s: float) -> None:
        await ledger.pause(wait_s)
        if others:
            ledger.closed_until_s = ledger.now_s + others.pop(0)

    run = WaitingBudget(ledger, pause=pause)
    await run.reserve(Purpose.SWEEP)
    assert (ledger.pauses_s, run.waited_s, run.calls) == ([10.0, 20.0, 5.0], 35.0, 1)


@pytest.mark.parametrize(("wait_s", "is_waited_for"), [(LONGEST_WAIT_S, True), (LONGEST_WAIT_S + 0.001, False)])
async def test_a_far_place_ends_the_run(wait_s: float, is_waited_for: bool) -> None:
    ledger = ClosedBudget(closed_until_s=wait_s)
    run = waiting(ledger)
    if is_waited_for:
        await run.reserve(Purpose.SWEEP)
    else:
        with pytest.raises(BudgetSpent) as spent:
            await run.reserve(Purpose.SWEEP)
        assert spent.value.retry_after_s == wait_s
    assert (run.calls, bool(ledger.pauses_s)) == (int(is_waited_for), is_waited_for)


async def test_a_refusal_that_names_no_time_ends_the_run() -> None:
    with pytest.raises(BudgetSpent):
        await waiting(ClosedBudget(closed_until_s=1.0, names_no_time=True)).reserve(Purpose.SWEEP)


async def test_a_wait_of_next_to_nothing_does_not_spin() -> None:
    ledger = ClosedBudget(closed_until_s=1e-6)
    await waiting(ledger).reserve(Purpose.SWEEP)
    assert ledger.pauses_s == [0.05]


async def test_a_wait_can_be_cancelled_and_nothing_is_reserved() -> None:
    ledger, pausing = ClosedBudget(closed_until_s=60.0), asyncio.Event()

    async def pause(_wait_s: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    run = WaitingBudget(ledger, pause=pause)
    reserving = asyncio.ensure_future(run.reserve(Purpose.SWEEP))
    async with asyncio.timeout(5):
        await pausing.wait()
    reserving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    assert (run.calls, run.waited_s, ledger.reserved) == (0, 0.0, [])


def refusing(times: int, retry_after: str | None) -> Answer:
    """Answer 429 so many times, and then a list of one."""
    left = [None] * times

    async def answer(_request: web.Request) -> web.Response:
        if left:
            left.pop()
            return web.Response(status=429, headers={"Retry-After": retry_after} if retry_after else None)
        return web.json_response([1])

    return answer


@asynccontextmanager
async def running(answer: Answer, run: WaitingBudget) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    async with vendor_server(answer) as url, aiohttp.ClientSession() as session:
        http = VendorHttp(session, run, retry_base_s=0.0, longest_refusal_s=LONGEST_WAIT_S)
        yield lambda: http.get_json(f"{url}/clients", params={}, headers={}, purpose=Purpose.SWEEP)


@pytest.mark.parametrize(("retry_after", "pauses_s"), [("17", [17.0, 17.0]), (None, [60.0, 120.0])])
async def test_a_walk_survives_refusals_that_are_soon_over(retry_after: str | None, pauses_s: list[float]) -> None:
    ledger = ClosedBudget()
    run = waiting(ledger)
    async with running(refusing(2, retry_after), run) as get:
        assert await get() == [1]
    assert ledger.pauses_s == pauses_s
    assert (run.calls, run.rate_limit_hits, run.waited_s) == (3, 2, sum(pauses_s))
    assert ledger.finished == [1, 2, 3]


async def test_a_refusal_for_the_rest_of_the_day_ends_the_walk_at_once() -> None:
    ledger = ClosedBudget()
    run = waiting(ledger)
    async with running(refusing(1, "3600"), run) as get:
        with pytest.raises(RateLimited) as refused:
            await get()
        with pytest.raises(BudgetSpent):
            await get()
    assert refused.value.retry_after_s == 3600.0
    assert (run.calls, run.rate_limit_hits, ledger.pauses_s) == (1, 1, [])


async def test_a_vendor_that_keeps_refusing_is_not_asked_for_ever() -> None:
    run = waiting(ClosedBudget())
    async with running(refusing(100, "1"), run) as get:
        with pytest.raises(RateLimited):
            await get()
    assert (run.calls, run.rate_limit_hits) == (3, 3)


async def test_a_failure_after_a_refusal_is_tried_again_as_ever() -> None:
    answers = [429, 500, 200]

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0), text="[1]", headers={"Retry-After": "5"} if answers[1:] else None)

    ledger = ClosedBudget()
    run = waiting(ledger)
    async with running(answer, run) as get:
        assert await get() == [1]
    assert (run.calls, run.rate_limit_hits, ledger.pauses_s) == (3, 1, [5.0])
