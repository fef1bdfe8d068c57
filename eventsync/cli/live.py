"""What `eventsync up` shows while it runs: a table that refreshes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from eventsync.cli.ecosystem_sending import duration
from eventsync.cli.live_figures import Figures, FlowWatch, OutboundFigures, OutboundWatch
from eventsync.cli.output import cell
from eventsync.sandbox import Sandbox
from eventsync.wiring.demo import Demo
from eventsync.wiring.process import Process

_REFRESH_S = 0.5
_LINE_EVERY_S = 10.0
_BARS = " ▁▂▃▄▅▆▇█"
_HISTORY = 50  # with what stands before it, within 80 columns
_EVENTS_SHOWN = 5  # all in all within 24 lines
_LONG_S = 10.0  # nobody reads milliseconds beyond
_OUTCOMES = ("applied", "unchanged", "stale", "refetched")


class LiveView:
    """Shows the flow of one process."""

    def __init__(self, process: Process, demo: Demo | None, console: Console) -> None:
        self._process = process
        self._demo = demo
        self._console = console
        self._rates: deque[int] = deque([0] * _HISTORY, maxlen=_HISTORY)
        self._last_received = 0
        self._flow = FlowWatch(process)
        self._outbound = OutboundWatch(process)

    async def show_until(self, stop: asyncio.Event) -> None:
        """Show until `stop` is set."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not await _within(stop, _REFRESH_S):
                    live.update(await self.frame(), refresh=True)
        else:
            while not await _within(stop, _LINE_EVERY_S):
                self._console.print(_line(await self._flow.look()), highlight=False, soft_wrap=True)

    async def frame(self) -> RenderableType:
        """Draw the flow as it is now."""
        return self._render(await self._flow.look(), await self._outbound.look())

    def _render(self, figures: Figures, outbound: OutboundFigures | None) -> RenderableType:
        self._rates.append(figures.received - self._last_received)
        self._last_received = figures.received
        flow = Table.grid(padding=(0, 3))
        _draw_flow(flow, figures, _sparkline(self._rates))
        if outbound is not None:
            _draw_outbound(flow, outbound)
        parts: list[RenderableType] = [Panel(flow, title="eventsync", title_align="left")]
        if self._demo is not None:
            parts.append(_vendors_panel(self._demo))
        troubles = [f"{state.name}: {state.reason}" for state in self._process.supervisor.states if state.reason]
        if troubles:
            parts.append(Text("\n".join(troubles), style="red"))
        parts.append(Text("Ctrl-C drains and stops", style="dim"))
        return Group(*parts)


def _draw_flow(flow: Table, figures: Figures, sparkline: str) -> None:
    flow.add_row("received", f"[bold]{figures.received:,}[/bold]", sparkline)
    if figures.spooled:
        flow.add_row("  into the spool", f"{figures.spooled:,}", "PostgreSQL was away")
    for outcome in _OUTCOMES:
        flow.add_row(f"  {outcome}", f"{figures.finished.get(outcome, 0):,}", _MEANINGS[outcome])
    flow.add_row("  parked", _alarming(figures.parked), "a person's: `eventsync events list --state parked`")
    flow.add_row("in flight", f"{figures.in_flight:,}", "")
    flow.add_row("to be read", f"{figures.to_be_read:,}", "waits for the API's budget: `eventsync budget`")
    flow.add_row("webhook → row", _milliseconds(figures.latency_p50_s), f"p99 {_milliseconds(figures.latency_p99_s)}")


def _draw_outbound(flow: Table, outbound: OutboundFigures) -> None:
    """Draw the outbound queue below the events; failures and a pause only where there are any."""
    oldest = "" if outbound.oldest_s is None else f"the oldest for {duration(outbound.oldest_s)}"
    flow.add_row("to be sent", f"{outbound.waiting:,}", oldest or "to Colectiva: `eventsync ecosystem sync --dry-run`")
    took = f"{_took(outbound.delivery_p50_s)} after the change, p99 {_took(outbound.delivery_p99_s)}"
    flow.add_row("  delivered", f"{outbound.delivered:,}", took if outbound.delivered else "")
    if outbound.failed:
        flow.add_row("  failed", _alarming(outbound.failed), "a person's: ecosystem_sync_queue.error_message")
    if outbound.paused_at is not None:
        since = outbound.paused_at.astimezone()
        flow.add_row(
            "  paused", f"[bold red]{since:%H:%M}[/bold red]", Text(cell(outbound.paused_because), style="red")
        )


def _vendors_panel(demo: Demo) -> Panel:
    """Draw what the pretend vendors told and were told, side by side."""
    table = Table.grid(padding=(0, 3))
    sandboxes = [vendor.running for vendor in (demo.practice, demo.colectiva) if vendor is not None]
    names = {"intakeq": "IntakeQ", "colectiva": "Colectiva"}
    table.add_row(*(f"{names[x.sandbox.vendor.name]} at {x.base_url}" for x in sandboxes))
    table.add_row(*(_told_by(x.sandbox) for x in sandboxes))
    return Panel(table, title="pretend vendors", title_align="left")


def _told_by(sandbox: Sandbox) -> Table:
    """Draw what happened at a pretend vendor, the most frequent first."""
    table = Table.grid(padding=(0, 3))
    organizations = sandbox.vendor.counts().get("organizations")
    if organizations is not None:
        table.add_row("organizations", f"[bold]{organizations:,}[/bold]")
    told = sorted(sandbox.stats.webhooks.items(), key=lambda item: -item[1])
    for event, count in told[: _EVENTS_SHOWN - table.row_count]:
        table.add_row(event, f"{count:,}")
    return table


_MEANINGS = {
    "applied": "changed a row",
    "unchanged": "said what the copy already knew",
    "stale": "something newer was already there",
    "refetched": "read from the vendor's API",
}


def _line(figures: Figures) -> str:
    ends = " ".join(f"{outcome}={figures.finished.get(outcome, 0)}" for outcome in _OUTCOMES)
    latency = f"p50={_milliseconds(figures.latency_p50_s)} p99={_milliseconds(figures.latency_p99_s)}"
    waiting = f"in_flight={figures.in_flight} to_be_read={figures.to_be_read}"
    return f"received={figures.received} {ends} parked={figures.parked} {waiting} {latency}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _took(seconds: float | None) -> str:
    return _milliseconds(seconds) if seconds is None or seconds < _LONG_S else duration(seconds)


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
