"""`eventsync drift`: what sweeps found wrong, and what became of the webhooks that should have told of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

import click

from eventsync.cli.event_filters import Moment
from eventsync.cli.output import Row, examples, first_few, json_option, show_json, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.drift import DriftSummary, DriftVerdict, ReportedDrift
from eventsync.domain.runs import RunId
from eventsync.postgres.drift import DriftFilter, DriftReport

_SHOWN_FIELDS = 3
_CLASSES = """\b
Classes:
  unannounced       the vendor sends no webhook for such an edit
  never_came        no webhook of that change was received
  late              it came, or came to its end, after the sweep had begun to read
  parked            it came and waits for a person: see `eventsync events show`
  dropped_by_guard  it came in time and left the record as it was
  awaited           none was seen yet, and it may still come

"""
_USUAL_DAYS = timedelta(days=7)


@click.command(
    "drift",
    epilog=_CLASSES
    + examples(
        "eventsync drift",
        "eventsync drift --class never_came --since 24h",
        "eventsync drift --run 0b6f5a3e-2f0e-4c1b-9a52-6a1d7d1c9f10 --json",
    ),
)
@click.option("--org", help="Only this organization's (id, external id or number).")
@click.option("--connection", help="Only this connection's (number or id).")
@click.option("--run", "run_id", type=click.UUID, metavar="ID", help="Only what this run of a sync found.")
@click.option("--since", type=Moment(), help="Found at or after (7d, with --run everything); a time, or ago: 90m, 24h.")
@click.option("--class", "verdict", type=click.Choice([verdict.value for verdict in DriftVerdict]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
def drift_command(
    *,
    org: str | None,
    connection: str | None,
    run_id: UUID | None,
    since: datetime | None,
    verdict: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the records that sweeps found wrong: which fields, since when, and what became of the webhook.

    Every record that is listed was repaired when it was found. The webhook is looked for at the moment one asks, so
    that a verdict may change. Fields are named, their values are not shown.
    """

    async def report(at: Installation) -> tuple[list[ReportedDrift], DriftSummary]:
        now = at.clock()
        wanted = DriftFilter(
            organization_id=None if org is None else (await at.organization(org)).id,
            connection_id=None if connection is None else (await at.record_connection(connection)).id,
            run_id=None if run_id is None else RunId(run_id),
            since=now - _USUAL_DAYS if since is None and run_id is None else since,
            verdict=None if verdict is None else DriftVerdict(verdict),
        )
        drift = DriftReport(at.database)
        return await drift.findings(wanted, now, limit=limit), await drift.summary(wanted, now)

    findings, summary = with_installation(report)
    if as_json:
        show_json({"findings": [asdict(found) for found in findings], "summary": asdict(summary)})
        return
    show_rows(
        [_row(found) for found in findings],
        ["connection", "kind", "id", "fields", "since", "webhook", "became", "event_id"],
        as_json=False,
        empty="no sweep found a record wrong (see --since)",
    )
    for line in _summary_lines(summary, len(findings)):
        click.echo(line)


def _row(found: ReportedDrift) -> Row:
    return {
        "connection": found.connection,
        "kind": found.kind.value,
        "id": found.external_id,
        "fields": "new" if found.is_new else first_few(found.changed_fields, _SHOWN_FIELDS),
        "since": found.since,
        "webhook": found.expected_event,
        "became": found.verdict.value,
        "event_id": found.webhook_event_id,
    }


def _summary_lines(summary: DriftSummary, shown: int) -> list[str]:
    by_verdict = {verdict.value: summary.of(verdict) for verdict in DriftVerdict}
    total = sum(by_verdict.values())
    lines = []
    if total:
        told = ", ".join(f"{count} {verdict}" for verdict, count in by_verdict.items() if count)
        more = f" ({shown} shown, the latest)" if shown < total else ""
        lines.append(f"\nfindings: {total} ({told}){more}")
    if total and summary.parked_unread:
        lines.append(
            f"parked events of that time that name no record: {summary.parked_unread}; webhooks that never came may be"
            " among them, see `eventsync events list --state parked`"
        )
    return lines
