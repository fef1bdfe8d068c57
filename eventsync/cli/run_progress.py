"""Carries out runs within a command, or follows those that another process carries out, and shows how far they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import click
from rich.console import Console

from eventsync.cli.output import Row, show_json, show_rows
from eventsync.cli.session import Installation
from eventsync.domain.clock import Clock
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.domain.runs import Run, RunId, RunStatus, SyncType
from eventsync.postgres.listener import Listener
from eventsync.postgres.runs import Runs
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.reading import Store
from eventsync.stages.sync_worker import SyncWorker
from eventsync.telemetry import Metrics
from eventsync.wiring.reconciling import RunAccounts, make_carriers, make_store

_SHORT = frozenset({SyncType.AUTOMATED_SWEEP, SyncType.MANUAL_ORG_BULK, SyncType.WEBHOOK})
_HEARTBEAT_S = 1.0  # so soon a run notices that a person has cancelled it
_POLL_S = 0.5
_RESCUE_INTERVAL_S = 10.0
_STANDS_STILL_S = 100.0  # longer than the minute's calls are waited for
_WAITS = " (waits for API calls: see `eventsync budget`)"
_TO_CANCEL_S = 20.0
_TO_GIVE_BACK_S = 10.0

Show = Callable[[str, int, int], None]
"""Shows a step's name, and how much of all of it is done."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What carrying out runs, or looking ahead of them, needs in this process."""

    runs: Runs
    store: Store
    accounts: RunAccounts
    worker: SyncWorker
    clock: Clock


@asynccontextmanager
async def open_workshop(at: Installation) -> AsyncIterator[Workshop]:
    """Open it. Nothing listens to PostgreSQL: a command looks again by itself."""
    metrics = Metrics()
    listener = Listener(at.database_url, metrics)
    async with aiohttp.ClientSession() as http:
        accounts = RunAccounts(at.database, at.record_vendors, http, at.clock)
        store = make_store(at.database, at.keyring, metrics, at.clock)
        directory = ConnectionDirectory(at.connections.load_connection, listener)
        carriers = make_carriers(store, directory, at.record_vendors, accounts.open)
        worker = SyncWorker(store.runs, carriers, listener, at.clock, heartbeat_s=_HEARTBEAT_S)
        yield Workshop(store.runs, store, accounts, worker, at.clock)


@contextmanager
def progress_bar() -> Iterator[Show]:
    """Show a bar on the terminal while the block runs; nothing at all where no terminal is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # terminals' alone

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of about {task.total:.0f} calls"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Beginning", total=1)
        yield lambda text, done, total: progress.update(task, description=text, completed=done, total=max(total, 1))


class RunKeeper:
    """Brings a run to its end: carries it out here unless another process does, or comes first.

    A run whose process dies meanwhile is taken over.
    """

    def __init__(self, workshop: Workshop, show: Show, *, poll_s: float = _POLL_S) -> None:
        self._runs = workshop.runs
        self._worker = workshop.worker
        self._clock = workshop.clock
        self._show = show
        self._poll_s = poll_s
        self._rescue_at = time.monotonic()
        self._working: asyncio.Future[Run | None] | None = None
        self._told: set[str] = set()

    async def to_end(self, run: Run, *, cancels: bool) -> Run:
        """Answer the run as it ended.

        Being cancelled, as by Ctrl-C, it cancels the run where `cancels` says so: the same person has asked for it.
        Otherwise the run goes on: where another process carries it out, or given back, so that any worker takes it.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(run.id))
                try:
                    return await self._to_end(run)
                finally:
                    watching.cancel()
        except asyncio.CancelledError:
            await self._leave(run.id, cancels=cancels)
            raise

    async def _to_end(self, run: Run) -> Run:
        while run.status.is_active:
            could_begin = run.status is RunStatus.STARTING
            if could_begin and (ended := await self._carry_out(run.id)) is not None:
                return ended
            await asyncio.sleep(self._poll_s)
            await self._rescue()
            run = await self._runs.find(run.id) or run
            if could_begin and run.status is RunStatus.STARTING:
                self._say_once(_waiting(await self._beside(run)))
        return run

    async def _carry_out(self, run_id: RunId) -> Run | None:
        """Carry it out; None where it cannot begin here and now. Being cancelled leaves the work to `_leave`."""
        self._working = asyncio.ensure_future(self._worker.run_once(run_id))
        ended = await asyncio.shield(self._working)
        self._working = None
        return ended

    async def _leave(self, run_id: RunId, *, cancels: bool) -> None:
        if cancels:
            self._say("Cancelling the run; what it has read stays …")
            await self._runs.cancel(run_id, self._clock())
        elif self._working is not None:
            self._say("Giving the run back; a worker process, or this command, goes on with it where it stands …")
        else:
            self._say("The run goes on without this command.")
        if self._working is not None:
            await _let_go(self._working, within_s=_TO_CANCEL_S if cancels else 0.0)

    async def _rescue(self) -> None:
        """Take back the runs of processes that died, since no worker need be there to do it."""
        if time.monotonic() >= self._rescue_at:
            self._rescue_at = time.monotonic() + _RESCUE_INTERVAL_S
            await self._runs.rescue(self._clock())

    async def _beside(self, run: Run) -> Run | None:
        """Find the run that this one waits for: of one connection, one long and one short run go on at a time."""
        recent = await self._runs.recent(connection_id=run.connection_id)
        running = (other for other in recent if other.status is RunStatus.RUNNING and other.patient_id is None)
        return next((other for other in running if (other.sync_type in _SHORT) == (run.sync_type in _SHORT)), None)

    async def _watch(self, run_id: RunId) -> None:
        """Show how far the run is, for ever; where it stands still, why that may be."""
        seen, since = None, time.monotonic()
        while True:
            with suppress(Transient):  # the bar stands still
                run = await self._runs.find(run_id)
                if run is not None:
                    text, calls, expected = _progress(run)
                    if (text, calls) != seen:
                        seen, since = (text, calls), time.monotonic()
                    waits = "" if time.monotonic() - since < _STANDS_STILL_S else _WAITS
                    self._show(text + waits, calls, expected)
            await asyncio.sleep(self._poll_s)

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._say(text)

    def _say(self, text: str) -> None:
        self._told.add(text)
        click.echo(text, err=True)


async def _let_go(work: asyncio.Future[Run | None], *, within_s: float) -> None:
    """Give work that long to end by itself, then end it."""
    await asyncio.wait({work}, timeout=within_s)
    work.cancel()
    await asyncio.wait({work}, timeout=_TO_GIVE_BACK_S)
    if work.done() and not work.cancelled():
        work.exception()  # the command is being stopped: how the run ended stands in its row


def show_runs(runs: Sequence[Run], numbers: dict[ConnectionId, int], *, as_json: bool) -> None:
    """Print how runs ended; `numbers` are their connections'. What people must know goes to the standard error."""
    rows = [run_row(run, numbers[run.connection_id]) for run in runs]
    if as_json:
        show_json(rows)
        return
    columns = ["connection", "status", "new", "updated", "unchanged", "errors", "deleted", "patients"]
    show_rows(
        [_shown(row) for row in rows],
        [*columns, "new_patients", "calls", "budget_left", "duration"],
        as_json=False,
        empty="no run",
    )
    for row in rows:
        for line in _remarks(row):
            click.echo(f"connection {row['connection']}: {line}", err=True)


def exit_code(runs: Sequence[Run]) -> int:
    """Tell 0 where every run did its work, in part at least, else 1."""
    return 0 if all(run.status in (RunStatus.COMPLETED, RunStatus.PARTIAL_SUCCESS) for run in runs) else 1


def run_row(run: Run, connection: int) -> Row:
    """Draw a run for printing."""
    metadata = run.metadata
    return {
        "run_id": run.id,
        "connection": connection,
        "connection_id": run.connection_id,
        "sync_type": run.sync_type.value,
        "status": run.status.value,
        "triggered_by": run.triggered_by,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        "duration_ms": run.duration_ms,
        **asdict(run.counts),
        "appointments_deleted": metadata.get("appointments_deleted", 0),
        "new_patients": metadata.get("newPatientsDiscovered", 0),
        "calls": metadata.get("intakeq_api_calls", run.progress.get("calls", 0)),
        "budget_left": metadata.get("budget_left"),
        "reason": run.error_message or metadata.get("stopped_because"),
        "warnings": list(metadata.get("warnings", ())),
        "errors": list(metadata.get("errors", ())),
    }


def _shown(row: Row) -> Row:
    seconds = (row["duration_ms"] or 0) / 1000
    short = {name: row[f"appointments_{name}"] for name in ("new", "updated", "unchanged", "errors", "deleted")}
    return {**row, **short, "patients": row["patients_processed"], "duration": f"{seconds:.1f} s"}


def _remarks(row: Row) -> Iterator[str]:
    if row["reason"]:
        yield f"{row['status']}: {row['reason']}"
    for error in row["errors"]:
        text = error["error"] if error["patientId"] is None else f"patient {error['patientId']}: {error['error']}"
        if text != row["reason"]:
            yield f"error: {text}"
    for warning in row["warnings"]:
        yield f"warning: {warning}"


def _progress(run: Run) -> tuple[str, int, int]:
    told: dict[str, Any] = dict(run.progress)
    calls = int(told.get("calls", 0))
    expected = max(int(told.get("expected_calls", 0)), int(run.options.get("expected_calls", 0)), calls)
    return str(told.get("step", "Beginning")), calls, expected


def _waiting(beside: Run | None) -> str:
    if beside is None:
        return "The run waits for its turn …"
    return f"The run waits until the connection's {beside.sync_type.value}, which goes on now, has ended …"
