"""`eventsync bench`: how fast this release is on this machine, and whether anything is lost on the way."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from eventsync.bench.benchmark import run_benchmark
from eventsync.bench.options import BenchOptions, BusKind
from eventsync.bench.place import memory_backed
from eventsync.bench.report import Report
from eventsync.bus.rabbit_link import check_url
from eventsync.cli.bench_tables import STDOUT, tell
from eventsync.cli.loop import run_async
from eventsync.cli.output import examples

_REFRESHES_PER_S = 2  # each takes processor time away from what is measured
_MOST_EVENTS = 1_000_000  # they are made beforehand, 1.5 kB each
_BOTH = "both"


def _writable(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that could not be written before the benchmark runs, not after."""
    if path is not None and path != STDOUT and not path.resolve().parent.is_dir():
        raise click.BadParameter(f"the folder {path.resolve().parent} does not exist")
    return path


def _finite(_ctx: click.Context, _parameter: click.Parameter, number: float | None) -> float | None:
    if number is not None and not math.isfinite(number):  # no range refuses "nan"
        raise click.BadParameter("this is not a number")
    return number


_file = click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True)


@click.command(
    "bench",
    epilog=examples(
        "eventsync bench",
        "eventsync bench --events 2000 --rate 100        # latency at 100 a second",
        "eventsync bench --amqp-url amqp://guest:guest@localhost/bench --rounds 3 --chart bench.svg",
        "eventsync bench --json - > bench.json",
    ),
)
@click.option("--events", type=click.IntRange(1, _MOST_EVENTS), default=10_000, show_default=True,
              help="Webhooks to send; one in five is about an appointment of an earlier one.")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 1000), default=64, show_default=True,
              help="HTTP connections that send.")  # fmt: skip
@click.option("--rate", "rate_per_s", type=click.FloatRange(0, 100_000, min_open=True), metavar="N",
              callback=_finite,
              help="Send N a second, however slow the answers, instead of as fast as these come.")  # fmt: skip
@click.option("--bus", type=click.Choice([*(kind.value for kind in BusKind), _BOTH]),
              help="In-process, over RabbitMQ, or both (default: both with --amqp-url, else memory).")  # fmt: skip
@click.option("--amqp-url", help="A virtual host of RabbitMQ for the benchmark alone.")
@click.option("--warm-up", type=click.IntRange(0, _MOST_EVENTS), default=500, show_default=True,
              help="Webhooks to send before the clock starts.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True,
              help="Do everything so many times and tell medians.")  # fmt: skip
@click.option("--temp-dir", type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
              help="Where the throwaway database is: choose a folder on the disk of interest.")  # fmt: skip
@click.option("--json", "json_path", type=_file, callback=_writable, metavar="FILE",
              help="Write the whole report as JSON; - is standard output, instead of the tables.")  # fmt: skip
@click.option("--chart", "chart_path", type=_file, callback=_writable, metavar="FILE",
              help="Draw the events a second (with --rate: the latencies) as an SVG.")  # fmt: skip
def bench_command(*, json_path: Path | None, chart_path: Path | None, bus: str | None, **given: Any) -> None:
    """Measure eventsync on this machine, then look for every webhook that it accepted.

    Webhooks are posted to real processes of eventsync: to one with all roles and, with --amqp-url, to three over
    RabbitMQ. Then each of them is looked for in the database: it must have one end, and its appointment's row must
    be the last version sent. What is lost, doubled or wrong is listed, and the command ends with 1. This machine's
    own limits are measured in the same run, since figures of different machines compare by their ratio to these only.

    Nothing of yours is touched: EVENTSYNC_DATABASE_URL, EVENTSYNC_AMQP_URL and the other settings are not used. A
    PostgreSQL of the benchmark's own, durable like yours, runs in a temporary folder and is removed with it. The
    virtual host must hold no queues of eventsync's; those made there are deleted.
    """
    options = BenchOptions(buses=_buses(bus, given["amqp_url"]), **given)
    if memory_backed(options.temp_dir or Path(tempfile.gettempdir())):
        click.echo("The folder for temporary files is kept in memory, so no commit waits for a disk: "
                   "name one on a disk by --temp-dir.", err=True)  # fmt: skip
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)  # our own error tells of a broker that is away
    report = run_async(_run(options))
    click.get_current_context().exit(tell(report, json_path, chart_path))


def _buses(chosen: str | None, amqp_url: str | None) -> tuple[BusKind, ...]:
    if chosen is None:
        chosen = BusKind.MEMORY.value if amqp_url is None else _BOTH
    if chosen == BusKind.MEMORY and amqp_url is not None:
        raise click.UsageError("--bus memory has no use for --amqp-url: leave one of them out")
    if chosen != BusKind.MEMORY and amqp_url is None:
        raise click.UsageError(
            f"--bus {chosen} needs --amqp-url, a virtual host for the benchmark alone: "
            "amqp://user:password@localhost/bench"
        )
    if amqp_url is not None:
        check_url(amqp_url)
    return tuple(BusKind) if chosen == _BOTH else (BusKind(chosen),)


async def _run(options: BenchOptions) -> Report:
    """Run it; Ctrl-C and SIGTERM end it in order: processes, databases, queues and folder are gone afterwards."""
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None  # noqa: S101  # a coroutine that runs is a task's
    told = asyncio.Event()

    def end() -> None:
        if not told.is_set():  # once: a second Ctrl-C must not interrupt the cleaning up
            told.set()
            click.echo("Cleaning up …", err=True)
            this.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                      refresh_per_second=_REFRESHES_PER_S) as progress:  # fmt: skip
            return await run_benchmark(options, _Shown(progress))
    except asyncio.CancelledError:
        if told.is_set():
            raise click.Abort from None
        raise


class _Shown:
    """Shows how far the benchmark is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, doing: str, total: int) -> None:
        """Take the former bar away and show a new one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(doing, total=total)

    def progress(self, done: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)
