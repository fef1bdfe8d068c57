"""Makes a command's attempts with the outbound queue, one after the other, and tells of each as it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import assert_never

import click
from rich.console import Console
from rich.text import Text

from eventsync.cli.output import Row, cell
from eventsync.domain.clock import Clock
from eventsync.domain.deliveries import Accepted, Deferred, Failed, Halted, Refused
from eventsync.stages.deliver import Deliverer, Delivery

_LONGEST_REST_S = 75.0  # in all since anything arrived: a minute's window of limits, or an outage's first seconds
_TO_END_ATTEMPT_S = 16.0  # one POST and the note of its end
_TO_LET_GO_S = 20.0  # the deliverer's own grace, where PostgreSQL is away
_MINUTE_S, _HOUR_S = 60, 3600


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command tells of its sending.

    `show` shows what is being done and how many items are dealt with, `say` prints a line of results, `note` one beside
    them, on the standard error.
    """

    show: Callable[[str, int], None]
    say: Callable[[str], None]
    note: Callable[[str], None]


class Result(StrEnum):
    """What became of an attempt; the metrics' labels are the same words."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # for good
    FAILED = "failed"  # tried again later, unless it was the last attempt
    DEFERRED = "deferred"  # not looked at, and not counted
    HALTED = "halted"  # the account is refused: the queue is paused
    LOST = "lost"  # a person put the item back meanwhile


class Sending:
    """One command's attempts: at most `at_most`, or until nothing is due.

    With a bound it stops where the other side asks to wait; without one it waits, for a while in all.
    `stopped_because` says why it ended before its time.
    """

    def __init__(self, deliverer: Deliverer, clock: Clock, at_most: int | None) -> None:
        self._deliverer = deliverer
        self._clock = clock
        self._at_most = at_most
        self._rested_s = 0.0
        self._settled = 0
        self.rows: list[Row] = []
        self.stopped_because: str | None = None

    @property
    def counts(self) -> Counter[str]:
        """How many attempts ended in which way."""
        return Counter(row["result"] for row in self.rows)

    @property
    def is_well(self) -> bool:
        """Whether everything that was tried arrived in the end, and nothing stopped it."""
        last_results = {row["id"]: row["result"] for row in self.rows}
        return self.stopped_because is None and set(last_results.values()) <= {Result.ACCEPTED, Result.LOST}

    async def to_end(self, screen: Screen) -> None:
        """Make the attempts, and say what comes of each.

        Being cancelled, as by Ctrl-C, it sees the attempt under way to its end.
        Raises Transient, Misconfigured where PostgreSQL is away or the account cannot be opened.
        """
        try:
            while self.stopped_because is None and (self._at_most is None or len(self.rows) < self._at_most):
                if self._deliverer.resting_s > 0.0:
                    await self._wait(screen)
                elif (delivery := await self._attempt(screen)) is not None:
                    self._note(delivery, screen)
                elif self._deliverer.resting_s <= 0.0:
                    break
        except asyncio.CancelledError:
            self.stopped_because = "it was interrupted"
            raise

    async def _wait(self, screen: Screen) -> None:
        wait_s = self._deliverer.resting_s
        if self._at_most is not None or self._rested_s + wait_s > _LONGEST_REST_S:
            self.stopped_because = f"nothing may be sent for {duration(wait_s)}, by what was answered last"
            return
        self._rested_s += wait_s
        screen.show(f"Waits {duration(wait_s)}", self._settled)
        await asyncio.sleep(wait_s)

    async def _attempt(self, screen: Screen) -> Delivery | None:
        attempt = asyncio.ensure_future(self._deliverer.deliver_next())
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            screen.note("Waiting for the answer to what has been sent …")
            if (delivery := await _ended(attempt)) is not None:
                self._note(delivery, screen)
            raise

    def _note(self, delivery: Delivery, screen: Screen) -> None:
        row = result_row(delivery)
        self.rows.append(row)
        screen.say(result_line(row, self._clock()))
        if row["result"] in (Result.ACCEPTED, Result.REFUSED):
            self._rested_s = 0.0
        elif row["result"] == Result.HALTED:
            self.stopped_because = "the account is refused"
        is_settled = row["result"] not in (Result.DEFERRED, Result.HALTED)
        self._settled += row["superseded"] + is_settled
        screen.show("Sending", self._settled)


async def _ended(attempt: asyncio.Future[Delivery | None]) -> Delivery | None:
    """Give the attempt its time; None where it has to be let go: others take the item up when its lease is over."""
    for within_s in (_TO_END_ATTEMPT_S, _TO_LET_GO_S):
        await asyncio.wait({attempt}, timeout=within_s)
        if attempt.done():
            break
        attempt.cancel()
    if not attempt.done() or attempt.cancelled() or attempt.exception() is not None:
        return None
    return attempt.result()


def result_row(delivery: Delivery) -> Row:
    """Draw one attempt's end for printing."""
    claim, answer = delivery.claim, delivery.answer
    return {
        "id": claim.item.id,
        "ecosystem_org_id": claim.item.ecosystem_org_id,
        "action": claim.item.action.value,
        "attempt": claim.attempts,
        "result": _result(delivery).value,
        "http_status": answer.http_status,
        "remote_org_id": answer.remote_org_id if isinstance(answer, Accepted) else None,
        "superseded": len(claim.superseded),
        "message": None if isinstance(answer, Accepted) else answer.message,
        "next_attempt_at": delivery.next_try_at,
    }


def _result(delivery: Delivery) -> Result:
    if not delivery.is_kept:
        return Result.LOST
    match delivery.answer:
        case Accepted():
            return Result.ACCEPTED
        case Refused():
            return Result.REFUSED
        case Failed():
            return Result.FAILED
        case Deferred():
            return Result.DEFERRED
        case Halted():
            return Result.HALTED
        case never:
            assert_never(never)


def result_line(row: Row, now: datetime) -> str:
    """Write one attempt's end for a person; the other side's words cannot steer the terminal."""
    superseded = f" ({row['superseded']} before it superseded)" if row["superseded"] else ""
    return f"{cell(row['ecosystem_org_id'])}  {row['action']:<10}  {_end(row, now)}{superseded}"


def _end(row: Row, now: datetime) -> str:
    words = cell(row["message"])
    match Result(row["result"]):
        case Result.ACCEPTED:
            return "sent" if row["remote_org_id"] is None else f"sent, there it is {cell(row['remote_org_id'])}"
        case Result.REFUSED:
            return f"{words} (item {row['id']} has failed)"
        case Result.FAILED | Result.DEFERRED:
            if row["next_attempt_at"] is None:
                return f"{words} (it was the last attempt: item {row['id']} has failed)"
            return f"{words} (tried again {in_how_long(row['next_attempt_at'], now)})"
        case Result.HALTED:
            return f"{words} (the queue is paused, the attempt does not count)"
        case Result.LOST:
            return "put back by somebody meanwhile: what came of it was not noted"


def in_how_long(moment: datetime | None, now: datetime) -> str:
    """Tell when something is due: `now`, or in how long."""
    wait_s = 0.0 if moment is None else (moment - now).total_seconds()
    return "now" if wait_s <= 0 else f"in {duration(wait_s)}"


def duration(seconds: float) -> str:
    """Write a time's length as roughly as a person wants it."""
    if seconds < 2 * _MINUTE_S:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / _MINUTE_S)} min" if seconds < 2 * _HOUR_S else f"{seconds / _HOUR_S:.1f} h"


@contextmanager
def open_screen(expected: int, *, has_bar: bool, has_lines: bool) -> Iterator[Screen]:
    """Show a bar with its rate on the terminal while the block runs, and lines above it; elsewhere only lines."""
    console = Console(stderr=True)
    echo_beside = partial(click.echo, err=True)
    if not (has_bar and console.is_terminal):
        yield Screen(_say_nothing, click.echo if has_lines else _say_nothing, echo_beside)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # terminals' alone

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} items, {task.fields[rate]:.1f}/s"),
        TimeElapsedColumn(),
    )
    began_s = time.monotonic()
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("Sending", total=max(expected, 1), rate=0.0)

        def show(text: str, done: int) -> None:
            rate = done / max(time.monotonic() - began_s, 0.001)
            progress.update(task, description=text, completed=done, total=max(expected, done, 1), rate=rate)

        def print_above(line: str) -> None:
            console.print(Text(line), soft_wrap=True)

        # Lines for the same terminal must go through the bar's console, which moves the bar out of their way.
        say = print_above if sys.stdout.isatty() else click.echo
        yield Screen(show, say if has_lines else _say_nothing, print_above)


def _say_nothing(*_: object) -> None:
    """Where JSON tells it all at the end, or no terminal is."""
