"""`eventsync sync`: syncs in the foreground, of the same kind as those that schedule, cron and API ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from eventsync.cli.output import Row, examples, json_option, show_json, show_rows
from eventsync.cli.run_progress import (
    RunKeeper,
    Workshop,
    exit_code,
    open_workshop,
    progress_bar,
    show_runs,
)
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.errors import Rejected
from eventsync.domain.runs import Run, RunRequest, SyncType
from eventsync.postgres.absences import Absences
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.sync_targets import SyncTarget, SyncTargets
from eventsync.stages.course import told
from eventsync.stages.dry_run import DryRun, DryRunReport, RunCost

_INTAKEQ = "intakeq"
_LONGEST_DAYS = 3_650


class _VendorGroup(click.Group):
    """A command a vendor; one that there is not (yet) is answered with those that there are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the vendor's command. Raises click.UsageError."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(f"'{args[0]}' cannot be synced: today there is {', '.join(self.commands)}", ctx)
        return super().resolve_command(ctx, args)


@click.group("sync", cls=_VendorGroup, epilog=examples("eventsync sync intakeq", "eventsync sync intakeq --dry-run"))
def sync_group() -> None:
    """Sync with a vendor now, in the foreground."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the options ask for."""

    org: str | None
    connection: str | None
    is_full: bool
    options: dict[str, Any]


@sync_group.command(
    _INTAKEQ,
    epilog=examples(
        "eventsync sync intakeq",
        "eventsync sync intakeq --org 1 --mode changes",
        "eventsync sync intakeq --dry-run --cost-only",
        "eventsync sync intakeq --connection 1 --days-back 365 --json",
    ),
)
@click.option("--org", help="Only this organization's connections (id, external id or number).")
@click.option("--connection", metavar="N", help="Only this connection (number or id).")
@click.option(
    "--mode",
    type=click.Choice(["full", "changes"]),
    default="full",
    show_default=True,
    help="Everything, as the daily run reads it, or what changed since it was read last.",
)
@click.option("--days-back", type=click.IntRange(0, _LONGEST_DAYS), help="How far back appointments are read.")
@click.option("--days-ahead", type=click.IntRange(0, _LONGEST_DAYS), help="How far ahead.")
@click.option(
    "--allow-mass-delete",
    is_flag=True,
    help="Believe a list that lacks more than a tenth of what is held: the practice has really deleted that much.",
)
@click.option("--dry-run", is_flag=True, help="Read, and only say what would change; nothing is written.")
@click.option("--cost-only", is_flag=True, help="Only say what would be read and what it costs, without any API call.")
@json_option
@click.pass_context
def sync_intakeq_command(
    ctx: click.Context,
    /,
    *,
    org: str | None,
    connection: str | None,
    mode: str,
    dry_run: bool,
    cost_only: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Sync with IntakeQ / PracticeQ now, and wait until it is done.

    It is the same run as the schedule and the cron endpoint start: never are two of them going on, and one that another
    process has begun is followed to its end. Ctrl-C cancels what this command has asked for; what was read stays.

    Ends with 0 where the syncs did their work, in part at least (the reason is told), and with 1 where one failed.
    """
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    if options and mode != "full":
        raise click.UsageError(f"--{next(iter(options)).replace('_', '-')} belongs to --mode full")
    asked = _Asked(org, connection, is_full=mode == "full", options=options)
    if dry_run or cost_only:
        found = with_installation(lambda at: _look_ahead(at, asked, cost_only=cost_only))
        _show_dry_runs(found, as_json=as_json)
        ctx.exit(1 if any(report is not None and report.has_failed for _, _, report in found) else 0)
    runs, numbers = with_installation(lambda at: _sync(at, asked))
    show_runs(runs, numbers, as_json=as_json)
    ctx.exit(exit_code(runs))


async def _sync(at: Installation, asked: _Asked) -> tuple[list[Run], dict[ConnectionId, int]]:
    """Sync one connection after the other."""
    runs, numbers = [], {}
    async with open_workshop(at) as workshop:
        for request, connection in await _requests(at, asked):
            numbers[connection.id] = connection.number
            runs.append(await _sync_one(workshop, request, connection))
    return runs, numbers


async def _sync_one(workshop: Workshop, request: RunRequest, connection: Connection) -> Run:
    run, is_new = await workshop.runs.request(request, workshop.clock())
    if not is_new:
        click.echo(_joined(run, connection, request), err=True)
    with progress_bar() as show:
        return await RunKeeper(workshop, show).to_end(run, cancels=is_new)


async def _requests(at: Installation, asked: _Asked) -> list[tuple[RunRequest, Connection]]:
    """Write what is asked for as requests, one a connection. Raises Rejected where no connection is concerned."""
    organization_id = None if asked.org is None else (await at.organization(asked.org)).id
    only = None if asked.connection is None else (await at.connection(asked.connection)).id
    targets = await _targets(at, asked, organization_id)
    found = []
    for target in targets:
        connection = await at.connections.load_connection(target.connection_id)
        if connection is not None and only in (None, connection.id):
            found.append((_request(at, asked, target, organization_id), connection))
    if not found:
        raise Rejected("no_connection", "there is no such connection to IntakeQ: see `eventsync connections list`")
    return found


async def _targets(at: Installation, asked: _Asked, organization_id: OrganizationId | None) -> Sequence[SyncTarget]:
    targets = SyncTargets(at.database, _INTAKEQ)
    if asked.is_full or organization_id is None:
        return await targets.owned(organization_id)
    return await targets.owned_or_followed(organization_id, at.clock().date())


def _request(at: Installation, asked: _Asked, target: SyncTarget, organization_id: OrganizationId | None) -> RunRequest:
    if asked.is_full:
        return RunRequest(
            SyncType.AUTOMATED_DAILY, target.connection_id, target.owner_id, at.actor, options=asked.options
        )
    for_whom = target.owner_id if organization_id is None else organization_id
    options = {"mode": "changes"}
    return RunRequest(SyncType.MANUAL_ORG_BULK, target.connection_id, for_whom, at.actor, options=options)


def _joined(run: Run, connection: Connection, request: RunRequest) -> str:
    text = f"connection {connection.number}: such a sync goes on already, asked for by {run.triggered_by}: following it"
    if dict(run.options) != dict(request.options):
        text += ", with its own options and not with those given"
    return text


async def _look_ahead(
    at: Installation, asked: _Asked, *, cost_only: bool
) -> list[tuple[int, RunCost, DryRunReport | None]]:
    """Plan, and unless `cost_only` read, what each connection's sync would."""
    found: list[tuple[int, RunCost, DryRunReport | None]] = []
    async with open_workshop(at) as workshop:
        store, accounts = workshop.store, workshop.accounts
        dry_run = DryRun(store, Coverage(at.database), Absences(at.database), at.record_vendors, accounts.open)
        for request, connection in await _requests(at, asked):
            cost = await dry_run.cost(connection, request)
            report = None
            if not cost_only:
                with progress_bar() as show:
                    report = await dry_run.read(connection, request, cost, show)
            found.append((connection.number, cost, report))
    return found


def _show_dry_runs(found: Sequence[tuple[int, RunCost, DryRunReport | None]], *, as_json: bool) -> None:
    if as_json:
        show_json([_dry_run_row(*entry) for entry in found])
        return
    for connection, cost, report in found:
        _show_cost(connection, cost)
        if report is not None:
            _show_report(report)


def _show_cost(connection: int, cost: RunCost) -> None:
    left = "any number" if cost.calls_left is None else cost.calls_left
    least = "" if cost.is_size_known else "at least "
    click.echo(f"connection {connection}: the sync costs {least}{cost.calls} API calls; {left} are left today")
    if not cost.is_size_known:
        click.echo(f"nothing was read yet: `eventsync backfill {connection} --dry-run` measures the practice", err=True)
    show_rows(_lists(cost), ["list", "calls"], as_json=False, empty="nothing to read")


def _show_report(report: DryRunReport) -> None:
    counts, calls = report.counts, report.calls
    click.echo(f"\n{calls} API calls were made; nothing was written. Appointments that the sync would find:")
    click.echo(
        f"{counts.appointments_new} new, {counts.appointments_updated} updated ({report.appointments_deleted} of them"
        f" deleted), {counts.appointments_unchanged} unchanged, {counts.appointments_errors} errors;"
        f" {report.new_patients} new patients"
    )
    for kind, count in report.not_listed.items():
        click.echo(f"{count} {kind.value}s were not listed: syncs decide by a second look whether they are gone")
    changed = [asdict(change) for change in report.changes if change.fields]
    if changed:
        show_rows(changed, ["kind", "external_id", "effect", "fields"], as_json=False, empty="")
    for line in _unread(report):
        click.echo(line, err=True)


def _unread(report: DryRunReport) -> list[str]:
    lines = [f"error: {text}" for text in report.errors]
    if report.course.stopped_because is not None:
        lines.append(f"stopped: {report.course.stopped_because}")
    if report.course.left:
        lines.append(f"not read: {', '.join(told(planned) for planned in report.course.left)}")
    return lines


def _dry_run_row(connection: int, cost: RunCost, report: DryRunReport | None) -> Row:
    row: dict[str, Any] = {
        "connection": connection,
        "cost": {
            "calls": cost.calls,
            "is_size_known": cost.is_size_known,
            "calls_left": cost.calls_left,
            "lists": _lists(cost),
        },
    }
    if report is not None:
        row["would_change"] = {
            "calls_made": report.calls,
            "appointments_new": report.counts.appointments_new,
            "appointments_updated": report.counts.appointments_updated,
            "appointments_unchanged": report.counts.appointments_unchanged,
            "appointments_errors": report.counts.appointments_errors,
            "appointments_deleted": report.appointments_deleted,
            "new_patients": report.new_patients,
            "records": [asdict(change) for change in report.changes],
            "not_listed": {kind.value: count for kind, count in report.not_listed.items()},
            "errors": list(report.errors),
            "stopped_because": report.course.stopped_because,
            "not_read": [told(planned) for planned in report.course.left],
        }
    return row


def _lists(cost: RunCost) -> list[Row]:
    lists: list[Row] = [{"list": told(planned), "calls": planned.expected_calls} for planned in cost.lists]
    if cost.other_calls:
        lists.append({"list": "practitioners, changed intakes and notes", "calls": cost.other_calls})
    return lists
