"""`python -m bench [ROW …]`: run contests and report them; see `make bench`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.contest import CannotRun, Contest
from bench.report import Report, as_chart, as_line, as_table, to_json
from bench.rows import load_contest, row_names
from bench.runner import Runner, Servers, open_servers, vhosts_of
from eventsync.bench.environment import describe_environment

_PLAIN_WIDTH = 120  # where the output goes to a file


def main() -> int:
    """Run what the command line asks for: 0 where every target was met, 1 where not, 2 where it makes no sense."""
    parser = _parser()
    given = parser.parse_args()
    contests = [load_contest(row) for row in given.rows or row_names()]
    known = {contender.name for contest in contests for contender in contest.contenders}
    if given.profile is not None and given.profile not in known:
        parser.error(f"no such contender: {given.profile}; there are {', '.join(sorted(known))}")
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    try:
        report = asyncio.run(_run(given, contests, console))
    except CannotRun as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except asyncio.CancelledError:
        sys.stderr.write("stopped\n")
        return 1
    for contest, outcome in zip(contests, report.outcomes, strict=True):
        console.print(as_table(contest, outcome))
        for name, profile in outcome.profiles.items():
            console.print(f"where the time goes: {name}", style="bold")
            console.print(profile, markup=False, highlight=False, soft_wrap=True)
    return 0 if report.is_passed else 1


def _parser() -> argparse.ArgumentParser:
    rows = row_names()
    parser = argparse.ArgumentParser(prog="bench", description="Contests between eventsync's parts and others.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all when none is named: {', '.join(rows)}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender, in turn (default 3)")
    parser.add_argument("--events", type=int, help="events a run, instead of the row's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw an SVG there")
    parser.add_argument("--profile", metavar="CONTENDER", help="run it once more under a profiler, kept in the report")
    return parser


async def _run(given: argparse.Namespace, contests: Sequence[Contest], console: Console) -> Report:
    _stop_in_order_on_sigterm()
    async with open_servers(vhosts=vhosts_of(contests, given.rounds)) as servers:
        report = await _report(given, contests, servers, console)
    if given.json is not None:
        given.json.write_bytes(to_json(report))
    if given.chart is not None:
        given.chart.write_text(as_chart(report.outcomes))
    return report


def _stop_in_order_on_sigterm() -> None:
    """Let SIGTERM end this task as Ctrl-C does: servers and contenders must not outlive us."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _report(given: argparse.Namespace, contests: Sequence[Contest], servers: Servers, console: Console) -> Report:
    amqp_url = None if servers.rabbitmq is None else servers.rabbitmq.url
    environment = await describe_environment(servers.postgres.url, amqp_url)
    console.print(as_line(environment), markup=False, highlight=False, soft_wrap=True)
    busy = os.getloadavg()[0]
    if busy > environment.cores / 2:
        console.print(f"this machine is busy (load {busy:.1f}): only ratios mean something", style="yellow")
    runner = Runner(servers, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    outcomes = [
        await runner.run(contest, given.events or contest.events, given.rounds, profile=given.profile)
        for contest in contests
    ]
    return Report(environment, tuple(outcomes))


if __name__ == "__main__":
    sys.exit(main())
