"""`eventsync providers`: the names by which an organization knows a connection's practitioners."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventsync.cli.output import Row, examples, json_option, show_record, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.postgres.providers import Provider, Providers


@click.group(
    "providers",
    epilog=examples("eventsync providers map 65f0c0ffee65f0c0ffee0002 'Dr. Pat Doe'", "eventsync providers list"),
)
def providers_group() -> None:
    """Name practitioners: the vendor's id beside the name and e-mail that the organization uses."""


@providers_group.command(
    "map",
    epilog=examples(
        "eventsync providers map 65f0c0ffee65f0c0ffee0002 'Dr. Pat Doe'",
        "eventsync providers map 65f0c0ffee65f0c0ffee0002 'Dr. Pat Doe' --email pat.doe@example.test --connection 2",
    ),
)
@click.argument("practitioner_id")
@click.argument("name")
@click.option("--email", help="The practitioner's e-mail.")
@click.option("--connection", help="Number or id; not needed where there is only one.")
@json_option
def map_provider(practitioner_id: str, name: str, email: str | None, connection: str | None, as_json: bool) -> None:
    """Give the vendor's PRACTITIONER_ID a NAME, anew where it has one."""

    async def name_provider(at: Installation) -> Row:
        found = await at.only_connection(connection)
        made = await Providers(at.database).map(found.id, practitioner_id, name, email, at.clock(), None)
        return {"id": made, "connection_id": found.id, "practitioner_id": practitioner_id, "provider_name": name}

    show_record(with_installation(name_provider), as_json=as_json)


@providers_group.command(
    "list", epilog=examples("eventsync providers list", "eventsync providers list --connection 2 --json")
)
@click.option("--connection", help="Only this connection's (number or id).")
@json_option
def list_providers(connection: str | None, as_json: bool) -> None:
    """List the practitioners that have a name."""

    async def find(at: Installation) -> list[Provider]:
        connection_id = None if connection is None else (await at.record_connection(connection)).id
        return await Providers(at.database).mapped(None, connection_id)

    show_rows(
        [asdict(provider) for provider in with_installation(find)],
        ["practitioner_id", "provider_name", "email", "connection_id"],
        as_json=as_json,
        empty="no practitioner has a name yet: give one with `eventsync providers map`",
    )
