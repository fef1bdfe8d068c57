"""What contenders in Python share: their arguments, the clock over what is measured, the line that they print last."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvloop

from bench.contest import CPU_SECONDS, MEMORY_MB, Figures
from bench.profiled import profiled

WARM_UP_EVENTS = 500
"""Sent, relayed or applied before the clock starts: connections open, plans are made, code is warm."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the runner asked for. `options` are the contender's own, by their names."""

    database_url: str
    amqp_url: str
    events: int
    options: argparse.Namespace


def contend(work: Callable[[Assignment], Awaitable[Figures]], options: Sequence[str] = ()) -> None:
    """Run a contender on uvloop, as eventsync itself runs, and print its figures; each of `options` takes a text."""
    parser = argparse.ArgumentParser()
    for name in ("database-url", "amqp-url"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--events", type=int, required=True)
    for name in options:
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    assignment = Assignment(given.database_url, given.amqp_url, given.events, given)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(_figures(work, assignment))
    sys.stdout.write(json.dumps(dict(figures)) + "\n")


async def _figures(work: Callable[[Assignment], Awaitable[Figures]], assignment: Assignment) -> Figures:
    return await work(assignment)


@dataclass(slots=True)
class Stopwatch:
    """Takes the wall-clock and this process's CPU time of a block, and a profile of it where one is wanted."""

    seconds: float = field(default=0.0, init=False)
    cpu_seconds: float = field(default=0.0, init=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take the time of the block."""
        with profiled("contender"):
            cpu_began, began = time.process_time(), time.perf_counter()
            yield
            self.seconds = time.perf_counter() - began
            self.cpu_seconds = time.process_time() - cpu_began

    def figures(self, events: int) -> dict[str, float]:
        """Give what was measured over `events`, with the most memory that this process has ever had."""
        return {
            "events": events,
            "seconds": self.seconds,
            CPU_SECONDS.name: self.cpu_seconds,
            MEMORY_MB.name: _peak_memory_mb(),
        }


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
