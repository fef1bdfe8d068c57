"""`eventsync orgs`: the organizations that own connections or follow patients."""

from __future__ import annotations

import click

from eventsync.cli.output import Row, examples, json_option, show_record, show_rows
from eventsync.cli.session import with_installation
from eventsync.postgres.tenants import Organization


@click.group("orgs", epilog=examples("eventsync orgs add 'Clinic North'", "eventsync orgs list"))
def orgs_group() -> None:
    """Add and list organizations: the owners of connections, and partners who follow patients."""


@orgs_group.command(
    "add",
    epilog=examples(
        "eventsync orgs add 'Clinic North'",
        "eventsync orgs add 'Clinic North' --external-id org_7f3a --json",
    ),
)
@click.argument("name")
@click.option(
    "--external-id", help="The organization's id in the systems that call eventsync; usable wherever an ORG is."
)
@json_option
def add_organization(name: str, external_id: str | None, as_json: bool) -> None:
    """Add an organization called NAME."""
    if not name.strip():
        raise click.BadParameter("give the organization a name", param_hint="NAME")
    added = with_installation(lambda at: at.organizations.add(name.strip(), external_id, at.clock()))
    show_record(_row(added), as_json=as_json)


@orgs_group.command("list", epilog=examples("eventsync orgs list", "eventsync orgs list --json"))
@json_option
def list_organizations(as_json: bool) -> None:
    """List all organizations."""
    found = with_installation(lambda at: at.organizations.all())
    show_rows(
        [_row(organization) for organization in found],
        ["number", "name", "external_id", "id", "created_at"],
        as_json=as_json,
        empty="no organization yet: make one with `eventsync orgs add NAME`",
    )


def _row(organization: Organization) -> Row:
    return {
        "id": organization.id,
        "number": organization.number,
        "external_id": organization.external_id,
        "name": organization.name,
        "created_at": organization.created_at,
    }
