"""How `eventsync bench` tells its report: tables for people, JSON for programs, and what is wrong in one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from eventsync.bench.report import BUS_NAMES, LISTED_IDS, Report, Summary
from eventsync.bench.trial import Trial
from eventsync.bench.usage import Spent
from eventsync.cli.output import show_table

STDOUT = Path("-")
_WRONG = {
    "lost": "accepted, but without an end",
    "doubled": "ended or applied twice",
    "left": "left in the queue",
    "wrong_rows": "appointments whose row is not the last version sent",
}


def tell(report: Report, json_path: Path | None, chart_path: Path | None) -> int:
    """Print and write what is wanted, say what is wrong, and answer the exit code: 1 where anything is."""
    if json_path != STDOUT:
        show_report(report)
    for path, write in ((json_path, json_text), (chart_path, Report.to_chart)):
        if path == STDOUT:
            click.echo(write(report))
        elif path is not None:
            path.write_text(write(report), encoding="utf-8")
    for problem in problems(report):
        click.echo(f"Error: {problem}", err=True)
    return 0 if report.is_good else 1


def show_report(report: Report) -> None:
    """Print the figures."""
    _show_environment(report)
    summaries = report.summaries()
    show_table(["", *(BUS_NAMES[each.bus] for each in summaries)], list(_figures(report, summaries)))
    click.echo()
    _show_limits(report)
    click.echo()
    _show_processes(report)


def json_text(report: Report) -> str:
    """Write the report as JSON."""
    return orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode()


def problems(report: Report) -> Iterator[str]:
    """Say what is wrong, a line for each kind and trial."""
    for trial in report.trials:
        bus = BUS_NAMES[trial.bus]
        amiss = {"refused": trial.refused, "not answered": trial.unanswered, "not sent": trial.unsent}
        if any(amiss.values()):
            yield f"{bus}: of all webhooks {', '.join(f'{count} were {how}' for how, count in amiss.items() if count)}"
        for kind, ids in asdict(trial.verdict).items():
            if ids:
                more = f" and {len(ids) - LISTED_IDS} more" if len(ids) > LISTED_IDS else ""
                yield f"{bus}: {len(ids)} {_WRONG[kind]}: {', '.join(ids[:LISTED_IDS])}{more}"


def _show_environment(report: Report) -> None:
    at, options = report.environment, report.options
    broker = "" if at.rabbitmq is None else f", RabbitMQ {at.rabbitmq}"
    pace = "as fast as answers come" if options.rate_per_s is None else f"{options.rate_per_s:g} a second"
    click.echo(
        f"eventsync {at.eventsync}, Python {at.python}, PostgreSQL {at.postgresql}{broker}, uvloop {at.uvloop}\n"
        f"{at.cpu}, {at.cores} cores, {at.memory_mb:,} MB, {at.kernel}\n"
        f"fsync {at.fsync}, synchronous_commit {at.synchronous_commit}, shared_buffers {at.shared_buffers}\n"
        f"{options.events:,} webhooks over {options.connections} connections, {pace}; rounds: {options.rounds}\n"
    )


def _figures(report: Report, summaries: Sequence[Summary]) -> Iterator[list[object]]:
    at_full_speed = report.options.rate_per_s is None
    yield ["POST → 200, events/s", *(f"{each.post_events_per_s:,.0f}" for each in summaries)]
    if at_full_speed:
        yield ["  of a handler that stores nothing", *(f"{each.post_to_handler_ratio:.2f}" for each in summaries)]
    yield ["  p50, p95, p99 ms", *(_three(each.post_p50_ms, each.post_p95_ms, each.post_p99_ms) for each in summaries)]
    yield ["POST → row, events/s", *(f"{each.row_events_per_s:,.0f}" for each in summaries)]
    if at_full_speed:
        yield ["  of a handler that stores nothing", *(f"{each.row_to_handler_ratio:.2f}" for each in summaries)]
        yield ["  of durable commits, one by one", *(f"{each.row_to_commits_ratio:.2f}" for each in summaries)]
    rows = (_three(each.row_p50_ms, each.row_p95_ms, each.row_p99_ms) for each in summaries)
    yield [f"  p50, p95, p99 ms{', waiting in line included' if at_full_speed else ''}", *rows]
    yield ["CPU µs per event, all processes", *(f"{each.cpu_us_per_event:,.0f}" for each in summaries)]
    for kind in _WRONG:
        yield [kind.replace("_", " "), *(_count(report, each, kind) for each in summaries)]


def _count(report: Report, summary: Summary, kind: str) -> int:
    return sum(len(getattr(trial.verdict, kind)) for trial in report.trials if trial.bus is summary.bus)


def _show_limits(report: Report) -> None:
    limits = [each.limits for each in report.rounds]
    rates = "/".join(f"{each.handler_events_per_s:,.0f}" for each in limits)
    commits = "/".join(f"{each.commits_per_s:,.0f}" for each in limits)
    click.echo(f"This machine's limits: a handler that stores nothing {rates} events/s; durable commits {commits}/s")


def _show_processes(report: Report) -> None:
    columns = ["", "process", "CPU s", "memory MB", "at its most", "at the end"]
    show_table(columns, [_process(trial, spent) for trial in report.rounds[-1].trials for spent in trial.processes])


def _process(trial: Trial, spent: Spent) -> list[object]:
    peak = "-" if spent.memory_peak_mb is None else f"{spent.memory_peak_mb:.0f}"
    memory = [f"{spent.memory_start_mb:.0f}", peak, f"{spent.memory_end_mb:.0f}"]
    return [BUS_NAMES[trial.bus], spent.name, f"{spent.cpu_seconds:.2f}", *memory]


def _three(p50_ms: float | None, p95_ms: float | None, p99_ms: float | None) -> str:
    return ", ".join("-" if each is None else f"{each:,.1f}" for each in (p50_ms, p95_ms, p99_ms))
