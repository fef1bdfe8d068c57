"""`eventsync budget`: what was spent of the vendors' call limits, on what, and what is left."""

from __future__ import annotations

import click

from eventsync.cli.output import Row, examples, json_option, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.crypto import fingerprint
from eventsync.domain.connections import Connection
from eventsync.wiring.accounts import budget_of


@click.command("budget", epilog=examples("eventsync budget", "eventsync budget --org 1 --json"))
@click.option("--org", help="Only this organization's connections (id, external id or number).")
@json_option
def budget_command(org: str | None, as_json: bool) -> None:
    """Show the API calls spent by purpose in the last minute and day, and what is left, for each connection.

    Connections with the same API key share one allowance. The windows slide: a call counts until a day has passed.
    """

    async def report(at: Installation) -> list[Row]:
        organization_id = None if org is None else (await at.organization(org)).id
        return [
            await _row(at, connection)
            for connection in await at.connections.load_connections()
            if organization_id in (None, connection.organization_id)
        ]

    show_rows(
        with_installation(report),
        [
            "connection",
            "vendor",
            "api_key",
            "spent_last_minute",
            "left_this_minute",
            "spent_last_day",
            "left_today",
            "closed_until",
        ],
        as_json=as_json,
        empty="no connection yet: make one with `eventsync connections add`",
    )


async def _row(at: Installation, connection: Connection) -> Row:
    report = await budget_of(at.database, connection, at.clock).report(at.clock())
    return {
        "connection": connection.number,
        "connection_id": connection.id,
        "vendor": connection.vendor,
        "api_key": fingerprint(connection.api_key),
        "calls_per_minute": connection.calls_per_minute,
        "calls_per_day": connection.calls_per_day,
        "spent_last_minute": dict(report.spent_last_minute),
        "left_this_minute": report.left_this_minute,
        "spent_last_day": dict(report.spent_last_day),
        "left_today": report.left_today,
        "closed_until": report.closed_until,
        "refusals": report.refusals,
    }
