"""`eventsync tokens`: who may use the management API; a token is shown once and kept as its hash."""

from __future__ import annotations

from uuid import UUID

import click

from eventsync.cli.output import Row, examples, json_option, show_record, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.errors import Rejected
from eventsync.postgres.access import ApiToken, Role


@click.group("tokens", epilog=examples("eventsync tokens add --role viewer --org 1", "eventsync tokens list"))
def tokens_group() -> None:
    """Make, list and end tokens for the management API (Authorization: Bearer TOKEN)."""


@tokens_group.command(
    "add",
    epilog=examples(
        "eventsync tokens add --role admin --name 'on-call'",
        "eventsync tokens add --role operator --org 1 --name billing-script",
    ),
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="admin: everything; operator: read and act in one organization; viewer: read there.",
)
@click.option("--org", help="The organization that an operator or viewer belongs to (id, external id or number).")
@click.option("--name", default="", help="What the token is for, to tell it apart in the list.")
@json_option
def add_token(role: str, org: str | None, name: str, as_json: bool) -> None:
    """Make a token. It is shown this once: keep it where secrets are kept."""
    chosen = Role(role)
    if (chosen is Role.ADMIN) != (org is None):
        raise click.UsageError(
            "an admin's token belongs to no organization: leave --org out"
            if chosen is Role.ADMIN
            else f"a token with the role {chosen.value} belongs to an organization: name it with --org"
        )

    async def add(at: Installation) -> Row:
        organization = None if org is None else await at.organization(org)
        organization_id = None if organization is None else organization.id
        made = await at.api_tokens.add(chosen, organization_id, at.clock(), name)
        return {
            "id": made.id,
            "role": chosen.value,
            "organization_id": organization_id,
            "name": name,
            "token": made.token,
        }

    show_record(with_installation(add), as_json=as_json)
    click.echo("The token is not shown again.", err=True)


@tokens_group.command("list", epilog=examples("eventsync tokens list", "eventsync tokens list --org 1 --json"))
@click.option("--org", help="Only this organization's (id, external id or number).")
@json_option
def list_tokens(org: str | None, as_json: bool) -> None:
    """List tokens, without the tokens themselves; revoked ones too."""

    async def find(at: Installation) -> list[ApiToken]:
        return await at.api_tokens.tokens(None if org is None else (await at.organization(org)).id)

    show_rows(
        [_row(token) for token in with_installation(find)],
        ["id", "name", "role", "organization_id", "created_at", "last_used_at", "revoked_at"],
        as_json=as_json,
        empty="no token yet: make one with `eventsync tokens add`",
    )


@tokens_group.command("revoke", epilog=examples("eventsync tokens revoke 0b5f9a52-6f3e-4c1e-9f55-2a4d8c7b1e60"))
@click.argument("token_id", type=click.UUID, metavar="ID")
@json_option
def revoke_token(token_id: UUID, as_json: bool) -> None:
    """End the token with this ID (see `eventsync tokens list`) at once."""

    async def revoke(at: Installation) -> None:
        if not await at.api_tokens.revoke(token_id, None, at.clock()):
            raise Rejected("unknown_token", "there is no living token with this id: see `eventsync tokens list`")

    with_installation(revoke)
    show_record({"id": token_id, "revoked": True}, as_json=as_json)


def _row(token: ApiToken) -> Row:
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.value,
        "organization_id": token.organization_id,
        "created_at": token.created_at,
        "last_used_at": token.last_used_at,
        "revoked_at": token.revoked_at,
    }
