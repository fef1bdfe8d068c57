"""What `eventsync up` shows while it runs: a table that refreshes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.samples import Sample
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from eventsync.domain.errors import EventsyncError
from eventsync.domain.events import WorkClass
from eventsync.telemetry import Metrics
from eventsync.wiring.demo import Demo
from eventsync.wiring.process import Process

_REFRESH_S = 0.5
_LINE_EVERY_S = 10.0
_BARS = " ▁▂▃▄▅▆▇█"
_HISTORY = 60
_OUTCOMES = ("applied", "unchanged", "stale", "refetched")


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at the flow. Counts are since the start of this process; latencies are in seconds, None without data."""

    received: int
    spooled: int
    finished: dict[str, int]
    parked: int
    in_flight: int
    to_be_read: int
    latency_p50_s: float | None
    latency_p99_s: float | None


class LiveView:
    """Shows the flow of one process."""

    def __init__(self, process: Process, demo: Demo | None, console: Console) -> None:
        self._process = process
        self._demo = demo
        self._console = console
        self._rates: deque[int] = deque([0] * _HISTORY, maxlen=_HISTORY)
        self._last_received = 0
        self._in_flight = 0
        self._to_be_read = 0

    async def show_until(self, stop: asyncio.Event) -> None:
        """Show until `stop` is set."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not await _within(stop, _REFRESH_S):
                    live.update(await self.frame(), refresh=True)
        else:
            while not await _within(stop, _LINE_EVERY_S):
                self._console.print(_line(await self._look()), highlight=False, soft_wrap=True)

    async def frame(self) -> RenderableType:
        """Draw the flow as it is now."""
        return self._render(await self._look())

    async def _look(self) -> Figures:
        try:
            measured = await self._process.queue.measure()
            waiting = [row for row in measured if row.status != "parked"]
            self._in_flight = sum(row.count for row in waiting if row.work == WorkClass.APPLY)
            self._to_be_read = sum(row.count for row in waiting if row.work == WorkClass.REFETCH)
        except EventsyncError:
            pass  # PostgreSQL is away: the figures in memory still tell what comes in
        return read_figures(self._process.metrics, self._in_flight, self._to_be_read)

    def _render(self, figures: Figures) -> RenderableType:
        self._rates.append(figures.received - self._last_received)
        self._last_received = figures.received
        flow = Table.grid(padding=(0, 3))
        flow.add_row("received", f"[bold]{figures.received:,}[/bold]", _sparkline(self._rates))
        if figures.spooled:
            flow.add_row("  into the spool", f"{figures.spooled:,}", "PostgreSQL was away")
        for outcome in _OUTCOMES:
            flow.add_row(f"  {outcome}", f"{figures.finished.get(outcome, 0):,}", _MEANINGS[outcome])
        flow.add_row(
            "  parked", _alarming(figures.parked), "waits for a person: `eventsync events list --state parked`"
        )
        flow.add_row("in flight", f"{figures.in_flight:,}", "")
        flow.add_row("to be read", f"{figures.to_be_read:,}", "waits for the vendor's API budget: `eventsync budget`")
        flow.add_row(
            "webhook → row", _milliseconds(figures.latency_p50_s), f"p99 {_milliseconds(figures.latency_p99_s)}"
        )
        parts: list[RenderableType] = [Panel(flow, title="eventsync", title_align="left")]
        if self._demo is not None:
            parts.append(self._sandbox_panel(self._demo))
        troubles = [f"{state.name}: {state.reason}" for state in self._process.supervisor.states if state.reason]
        if troubles:
            parts.append(Text("\n".join(troubles), style="red"))
        parts.append(Text("Ctrl-C drains and stops", style="dim"))
        return Group(*parts)

    def _sandbox_panel(self, demo: Demo) -> Panel:
        stats = demo.sandbox.sandbox.stats
        table = Table.grid(padding=(0, 3))
        for event, count in sorted(stats.webhooks.items(), key=lambda item: -item[1])[:8]:
            table.add_row(event, f"{count:,}")
        return Panel(table, title=f"pretend IntakeQ practice at {demo.sandbox.base_url}", title_align="left")


_MEANINGS = {
    "applied": "changed a row",
    "unchanged": "said what the copy already knew",
    "stale": "something newer was already there",
    "refetched": "read from the vendor's API",
}


def read_figures(metrics: Metrics, in_flight: int, to_be_read: int) -> Figures:
    """Read the figures out of a process's metrics."""
    families = {family.name: family for family in metrics.registry.collect()}
    finished = {
        sample.labels["outcome"]: int(sample.value) for sample in _totals(families["eventsync_events_finished"])
    }
    received = list(_totals(families["eventsync_events_received"]))
    latency = families["eventsync_webhook_to_row_seconds"]
    return Figures(
        received=int(sum(sample.value for sample in received)),
        spooled=int(sum(sample.value for sample in received if sample.labels["store"] != "postgres")),
        finished=finished,
        parked=int(sum(sample.value for sample in _totals(families["eventsync_events_parked"]))),
        in_flight=in_flight,
        to_be_read=to_be_read,
        latency_p50_s=quantile(latency, 0.5),
        latency_p99_s=quantile(latency, 0.99),
    )


def quantile(histogram: Metric, share: float) -> float | None:
    """Estimate a quantile from a histogram's buckets, evenly spread within each; None without observations."""
    buckets: dict[float, float] = {}
    for sample in histogram.samples:
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    wanted, lower, below = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            upper = bound if bound != float("inf") else lower
            return lower + (upper - lower) * (wanted - below) / (buckets[bound] - below)
        lower, below = bound, buckets[bound]
    return lower


def _totals(family: Metric) -> list[Sample]:
    return [sample for sample in family.samples if sample.name.endswith("_total")]


def _line(figures: Figures) -> str:
    ends = " ".join(f"{outcome}={figures.finished.get(outcome, 0)}" for outcome in _OUTCOMES)
    latency = f"p50={_milliseconds(figures.latency_p50_s)} p99={_milliseconds(figures.latency_p99_s)}"
    waiting = f"in_flight={figures.in_flight} to_be_read={figures.to_be_read}"
    return f"received={figures.received} {ends} parked={figures.parked} {waiting} {latency}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _alarming(count: int) -> str:
    return f"[bold red]{count:,}[/bold red]" if count else "0"


def _sparkline(rates: Sequence[int]) -> str:
    top = max(*rates, 1)
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates)


async def _within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
