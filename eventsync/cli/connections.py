"""`eventsync connections`: the links to vendors' accounts, and the webhook URLs that lead to them."""

from __future__ import annotations

from datetime import timedelta

import click

from eventsync.cli.connection_options import change_options, changed_connection, connection_options, new_connection
from eventsync.cli.output import Row, examples, json_option, show_json, show_record, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.cli.webhook_urls import advice, public_base_url, webhook_url
from eventsync.postgres.registries import find_registry
from eventsync.postgres.tenants import ConnectionSummary


@click.group(
    "connections",
    epilog=examples("eventsync connections add intakeq --org 1", "eventsync connections list"),
)
def connections_group() -> None:
    """Connect vendors' accounts. CONNECTION is a number or an id as `list` shows it."""


@connections_group.command(
    "add",
    epilog=examples(
        "eventsync connections add intakeq --org 1 --practice-id 65f0c0ffee65f0c0ffee0003",
        "eventsync connections add intakeq --org 1 --api-key - < key.txt",
        "eventsync connections add intakeq --org 1 --base-url http://127.0.0.1:8090/api/v1 --set calls_per_day=2000",
    ),
)
@connection_options
@json_option
def add_connection(as_json: bool, **given: object) -> None:
    """Connect an account at VENDOR (for example intakeq), and print the webhook URL to paste there.

    The API key is asked for where it is not given; `-` reads it from the standard input. Given as an option, other
    users of this machine could see it.
    """
    asked = new_connection(given)

    async def add(at: Installation) -> tuple[Row, list[str]]:
        organization = await at.organization(asked.org)
        added = await at.connections.add(asked.for_organization(organization.id), at.clock())
        made = await at.connection(str(added.id))
        url = webhook_url(public_base_url(at.settings), asked.vendor, added.webhook_token)
        notes = [*advice(at.settings, asked.vendor), *await _not_delivering(at, made)]
        return {**_row(made), "webhook_url": url}, notes

    record, notes = with_installation(add)
    if as_json:
        show_json({**record, "notes": notes})
        return
    show_record(record, as_json=False)
    for note in notes:
        click.echo(f"* {note}", err=True)


async def _not_delivering(at: Installation, added: ConnectionSummary) -> list[str]:
    """Say so where a registry's new connection is not the one that delivers, as after a try of the demo."""
    delivering_id = await find_registry(at.database, at.registry_vendors)
    if added.vendor not in at.registry_vendors or delivering_id in (None, added.id):
        return []
    first = (await at.connection(str(delivering_id))).number
    note = (
        f"The outbound queue goes to connection {first}, as the one with the lowest number: to let it go to"
        f" {added.number}, run `eventsync connections disable {first}`."
    )
    return [note]


@connections_group.command(
    "list", epilog=examples("eventsync connections list", "eventsync connections list --org 1 --json")
)
@click.option("--org", help="Only this organization's (id, external id or number).")
@json_option
def list_connections(org: str | None, as_json: bool) -> None:
    """List connections, without their secrets; disabled ones too."""

    async def find(at: Installation) -> list[ConnectionSummary]:
        return await at.connections.summaries(None if org is None else (await at.organization(org)).id)

    show_rows(
        [_row(connection) for connection in with_installation(find)],
        ["number", "vendor", "base_url", "practice_id", "timezone", "disabled_at", "organization_id"],
        as_json=as_json,
        empty="no connection yet: make one with `eventsync connections add`",
    )


@connections_group.command(
    "show", epilog=examples("eventsync connections show 1", "eventsync connections show 1 --json")
)
@click.argument("connection")
@json_option
def show_connection(connection: str, as_json: bool) -> None:
    """Show one connection with its settings; secrets stay sealed."""
    found = with_installation(lambda at: at.connection(connection))
    show_record(_row(found), as_json=as_json)


@connections_group.command(
    "update",
    epilog=examples(
        "eventsync connections update 1 --api-key -      # the key was renewed at the vendor",
        "eventsync connections update 1 --practice-id 65f0c0ffee65f0c0ffee0003 --set calls_per_day=2000",
        "eventsync connections update 1 --hmac-secret -  # webhooks must be signed with it from now on",
        "eventsync connections update 1 --hmac-secret - --hmac-secret - < both.txt  # its successor counts as well",
    ),
)
@click.argument("connection")
@change_options
@json_option
def update_connection(connection: str, as_json: bool, **given: object) -> None:
    """Change a connection; its webhook URL and everything that it brought stay.

    The secrets given replace all that there were: give both while the vendor's is rotated, later the new one alone.
    Lines of the standard input are read in the order API key, secrets. Given as an option, other users of this machine
    could see them.
    """
    changes = changed_connection(given)

    async def update(at: Installation) -> Row:
        found = await at.connection(connection)
        await at.connections.update(found.id, changes, None, at.clock())
        return _row(await at.connection(str(found.id)))

    show_record(with_installation(update), as_json=as_json)


@connections_group.command("reveal", epilog=examples("eventsync connections reveal 1"))
@click.argument("connection")
@json_option
def reveal_connection(connection: str, as_json: bool) -> None:
    """Print the connection's webhook URL again. This is noted in the access log."""

    async def reveal(at: Installation) -> list[Row]:
        found = await at.connection(connection)
        tokens = await at.webhook_tokens.reveal(found.id, None, at.actor, at.clock())
        base_url = public_base_url(at.settings)
        return [
            {
                "webhook_url": webhook_url(base_url, found.vendor, token.token),
                "created_at": token.created_at,
                "expires_at": token.expires_at,
            }
            for token in tokens
        ]

    show_rows(with_installation(reveal), ["webhook_url", "created_at", "expires_at"], as_json=as_json, empty="none")


@connections_group.command(
    "rotate-webhook-token",
    epilog=examples(
        "eventsync connections rotate-webhook-token 1",
        "eventsync connections rotate-webhook-token 1 --overlap-hours 0   # the old URL leaked",
    ),
)
@click.argument("connection")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, 24 * 365),
    default=72.0,
    show_default=True,
    help="How long the old URL still works.",
)
@json_option
def rotate_webhook_token(connection: str, overlap_hours: float, as_json: bool) -> None:
    """Make a new webhook URL; the old one goes on working for a while, so that the vendor's page can be changed."""

    async def rotate(at: Installation) -> Row:
        found, now, overlap = await at.connection(connection), at.clock(), timedelta(hours=overlap_hours)
        token = await at.webhook_tokens.rotate(found.id, None, now, overlap)
        return {
            "webhook_url": webhook_url(public_base_url(at.settings), found.vendor, token),
            "earlier_urls_work_until": now + overlap,
        }

    show_record(with_installation(rotate), as_json=as_json)


@connections_group.command("disable", epilog=examples("eventsync connections disable 1"))
@click.argument("connection")
@json_option
def disable_connection(connection: str, as_json: bool) -> None:
    """Close the connection's door and end its API calls; what it brought stays."""

    async def disable(at: Installation) -> Row:
        found = await at.connection(connection)
        await at.connections.disable(found.id, None, at.clock())
        return _row(await at.connection(str(found.id)))

    show_record(with_installation(disable), as_json=as_json)


def _row(connection: ConnectionSummary) -> Row:
    return {
        "id": connection.id,
        "number": connection.number,
        "organization_id": connection.organization_id,
        "vendor": connection.vendor,
        "base_url": connection.base_url,
        "practice_id": connection.practice_id,
        "timezone": connection.timezone,
        "requires_signature": connection.requires_signature,
        "allowed_networks": list(connection.allowed_networks),
        "settings": dict(connection.settings),
        "created_at": connection.created_at,
        "disabled_at": connection.disabled_at,
    }
