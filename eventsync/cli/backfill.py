"""`eventsync backfill`: the first full read of a new connection, after a look at what it costs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click

from eventsync.cli.output import Row, examples, json_option, show_json, show_rows
from eventsync.cli.run_progress import RunKeeper, Workshop, exit_code, open_workshop, progress_bar, run_row, show_runs
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.connections import Connection
from eventsync.domain.errors import Rejected
from eventsync.domain.runs import Run, RunRequest, RunStatus, SyncType
from eventsync.stages.course import rules_of
from eventsync.stages.dry_run import run_of
from eventsync.stages.estimate import BackfillEstimate, Duration, ListLength, estimate_backfill
from eventsync.vendorkit.budget import BudgetSpent
from eventsync.vendorkit.waiting import LONGEST_WAIT_S
from eventsync.wiring.accounts import budget_of

_LONGEST_DAYS = 3_650
_FOR_A_WORKER_S = 3.0  # an idle worker takes a run at once, one whose LISTEN is deaf within a second or so
_POLL_S = 0.2
_MINUTES_PER_HOUR, _MINUTES_PER_DAY = 60, 24 * 60


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the arguments ask for."""

    connection: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A backfill and its connection; `is_background` where another process carries it out and goes on without us."""

    run: Run
    connection: int
    is_background: bool


@click.command(
    "backfill",
    epilog=examples(
        "eventsync backfill 1",
        "eventsync backfill 1 --dry-run",
        "eventsync backfill 1 --days-back 365 --yes --follow",
    ),
)
@click.argument("connection")
@click.option("--yes", is_flag=True, help="Do not ask before it begins.")
@click.option("--dry-run", is_flag=True, help="Only say what it costs and how long it takes, for at most 14 API calls.")
@click.option("--follow", is_flag=True, help="Wait until it has ended, also where a worker process carries it out.")
@click.option("--days-back", type=click.IntRange(0, _LONGEST_DAYS), help="How far back appointments are read.")
@click.option("--days-ahead", type=click.IntRange(0, _LONGEST_DAYS), help="How far ahead.")
@json_option
@click.pass_context
def backfill_command(
    ctx: click.Context,
    /,
    *,
    connection: str,
    yes: bool,
    dry_run: bool,
    follow: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Read everything of CONNECTION (number or id) for the first time: its cost first, then the work.

    A worker process carries it out in the background, as the day's API calls allow, and goes on after a restart. Where
    none runs, this command does it; Ctrl-C then gives it back, and it goes on where it was with the next worker or
    `eventsync backfill`. The nearest appointments come first, so that the copy is of use after the first page.
    """
    asked = _Asked(connection, {name: value for name, value in given.items() if value is not None})
    standing = None if dry_run else with_installation(lambda at: _standing(at, asked))
    if standing is None and not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("look at the cost with --dry-run, then say --yes")
    estimate = None if standing is not None else with_installation(lambda at: _estimate(at, asked, is_needed=not yes))
    if estimate is not None and not (as_json and (dry_run or yes)):
        _show_estimate(estimate, to_error=not dry_run)
    if dry_run:
        if as_json:
            show_json({"estimate": _estimate_row(estimate), "run": None})
        return
    if standing is None and not yes:
        click.confirm("Read all of it now?", abort=True, err=True)
    begun = with_installation(lambda at: _backfill(at, asked, standing, estimate, follow=follow))
    _show_begun(begun, estimate, as_json=as_json)
    ctx.exit(0 if begun.is_background else exit_code([begun.run]))


async def _connection(at: Installation, asked: _Asked) -> Connection:
    """Open the connection. Raises Rejected where there is none that lives."""
    found = await at.connections.load_connection((await at.record_connection(asked.connection)).id)
    if found is None or found.disabled_at is not None:
        raise Rejected("connection_disabled", "the connection is disabled: see `eventsync connections list`")
    return found


async def _standing(at: Installation, asked: _Asked) -> Run | None:
    """Find the connection's backfill that goes on already."""
    connection = await _connection(at, asked)
    async with open_workshop(at) as workshop:
        await workshop.runs.rescue(at.clock())  # one whose process died does not go on by itself
        latest = await workshop.runs.recent(connection_id=connection.id, sync_type=SyncType.BACKFILL, at_most=1)
    return next((run for run in latest if run.status.is_active), None)


async def _estimate(at: Installation, asked: _Asked, *, is_needed: bool) -> BackfillEstimate | None:
    """Measure the practice; None where the budget has no calls for that, unless the estimate is what is wanted."""
    try:
        return await _measured(at, asked)
    except BudgetSpent as error:
        if is_needed:
            raise
        click.echo(f"The practice could not be measured: {error}", err=True)
        return None


async def _measured(at: Installation, asked: _Asked) -> BackfillEstimate:
    connection = await _connection(at, asked)
    rules = rules_of(
        run_of(_request(at, connection, asked), at.clock()), connection, at.record_vendors[connection.vendor]
    )
    async with open_workshop(at) as workshop:
        account = workshop.accounts.open_waiting(connection, LONGEST_WAIT_S)
        budget = budget_of(at.database, connection, at.clock)
        with progress_bar() as show:
            return await estimate_backfill(
                account, budget, connection, rules, at.clock, lambda calls: show("Measuring the practice", calls, 14)
            )


async def _backfill(
    at: Installation, asked: _Asked, standing: Run | None, estimate: BackfillEstimate | None, *, follow: bool
) -> _Begun:
    """Ask for the run unless it stands already, and see it begin or, where nobody else does it, end."""
    connection = await _connection(at, asked)
    async with open_workshop(at) as workshop:
        run = standing
        if run is None:
            request = _request(at, connection, asked, expected_calls=0 if estimate is None else estimate.calls)
            run, _ = await workshop.runs.request(request, at.clock())
        elif asked.options and not asked.options.items() <= run.options.items():
            click.echo("A backfill goes on already, with options of its own and not with those given.", err=True)
        run = await _taken(workshop, run)
        if run.status is RunStatus.RUNNING and not follow:
            return _Begun(run, connection.number, is_background=True)
        if run.status is RunStatus.STARTING:
            click.echo("No worker process has taken it, so this command carries it out.", err=True)
        with progress_bar() as show:
            ended = await RunKeeper(workshop, show).to_end(run, cancels=False)
    return _Begun(ended, connection.number, is_background=False)


async def _taken(workshop: Workshop, run: Run) -> Run:
    """Wait a little for a worker process to take the run; there is no other way to tell whether one runs."""
    for _ in range(round(_FOR_A_WORKER_S / _POLL_S)):
        if run.status is not RunStatus.STARTING:
            break
        await asyncio.sleep(_POLL_S)
        run = await workshop.runs.find(run.id) or run
    return run


def _request(at: Installation, connection: Connection, asked: _Asked, *, expected_calls: int = 0) -> RunRequest:
    options = dict(asked.options) | ({"expected_calls": expected_calls} if expected_calls else {})
    return RunRequest(SyncType.BACKFILL, connection.id, connection.organization_id, at.actor, options=options)


def _show_estimate(estimate: BackfillEstimate, *, to_error: bool) -> None:
    left = estimate.calls_left_today
    lines = [
        f"clients            {_length(estimate.clients)}",
        f"appointments       {_length(estimate.appointments)}",
        f"API calls          about {estimate.calls:,}",
        f"it takes           {_duration(estimate.duration)}",
    ]
    if left is not None:
        lines.append(f"calls for it       {left} left today, {estimate.calls_per_day} a day at most")
    lines.append(f"measured by        {estimate.calls_made} API calls")
    for line in lines:
        click.echo(line, err=to_error)


def _show_begun(begun: _Begun, estimate: BackfillEstimate | None, *, as_json: bool) -> None:
    run = begun.run
    if as_json:
        show_json({"estimate": _estimate_row(estimate), "run": run_row(run, begun.connection)})
    elif begun.is_background:
        row = {"run_id": run.id, "step": run.progress.get("step"), "calls": run.progress.get("calls", 0)}
        show_rows([row], ["run_id", "step", "calls"], as_json=False, empty="")
        click.echo(
            f"It goes on in the background: `eventsync backfill {begun.connection} --follow` shows how far it is."
        )
    else:
        show_runs([run], {run.connection_id: begun.connection}, as_json=False)


def _estimate_row(estimate: BackfillEstimate | None) -> Row | None:
    if estimate is None:
        return None
    lengths = {"clients": estimate.clients, "appointments": estimate.appointments}
    return {**asdict(estimate), **{name: {"rows": length.rows, **asdict(length)} for name, length in lengths.items()}}


def _length(length: ListLength) -> str:
    return f"{length.rows:,}" if length.is_exact else f"about {length.rows:,}"


def _duration(duration: Duration) -> str:
    if duration.days > 1:
        return f"about {duration.minutes / _MINUTES_PER_DAY:.1f} days, as each day's API calls allow"
    if duration.minutes > _MINUTES_PER_HOUR:
        return f"about {duration.minutes / _MINUTES_PER_HOUR:.1f} hours"
    return "about a minute" if duration.minutes <= 1 else f"about {duration.minutes} minutes"
