"""`eventsync freshness`: how long ago the copy was last known to be true, by organization and kind of record."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventsync.cli.output import Row, examples, json_option, show_json, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.postgres.freshness import Freshness, FreshnessRow

_AGES = ("p50", "p95", "p99", "oldest")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@click.command("freshness", epilog=examples("eventsync freshness", "eventsync freshness --org 1 --json"))
@click.option("--org", help="Only this organization's records (id, external id or number).")
@json_option
def freshness_command(org: str | None, as_json: bool) -> None:
    """Show the age of truth: how long ago records were last known to stand as their rows say.

    Of half of the records it is at most p50, of 99 in a hundred p99. A record is verified by the vendor's time of its
    version, by a read of its own, and by complete lists, also those of changes and deletions. `appointment_upcoming`
    are the appointments that have not begun. JSON gives whole seconds.
    """

    async def report(at: Installation) -> list[FreshnessRow]:
        organization_id = None if org is None else (await at.organization(org)).id
        return await Freshness(at.database).report(organization_id, at.clock())

    found = with_installation(report)
    if as_json:
        show_json([asdict(row) for row in found])
        return
    show_rows(
        [_row(row) for row in found],
        ["organization", "connection", "kind", "records", *_AGES],
        as_json=False,
        empty="no record yet: book an appointment, or run `eventsync send-test-event`",
    )


def _row(row: FreshnessRow) -> Row:
    told: dict[str, object] = {name: getattr(row, name) for name in ("organization", "kind", "records")}
    told["connection"] = "all" if row.connection is None else row.connection
    return told | {name: age_text(getattr(row, f"{name}_s")) for name in _AGES}


def age_text(age_s: int) -> str:
    """Write an age in its two largest units."""
    parts: list[str] = []
    for unit_s, unit in _UNITS:
        count, age_s = divmod(age_s, unit_s)
        if count or parts:
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"
