"""`eventsync ecosystem attach`: lets tables that a user has already fill the outbound queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from eventsync.cli.output import examples, json_option, show_json
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.errors import Rejected
from eventsync.postgres.outbound_sources import Attached, Detached, EntityType, OutboundSources, Source

_USUAL = {EntityType.PRACTICE: "practices", EntityType.THERAPIST: "therapists"}


@click.command(
    "attach",
    epilog=examples(
        "eventsync ecosystem attach --practices app.practices",
        "eventsync ecosystem attach --therapists app.therapists --users app.users --replace",
        "eventsync ecosystem attach --practices app.practices --detach",
    ),
)
@click.option("--practices", metavar="TABLE", help="The table whose rows are practices; it has id, name and email.")
@click.option("--therapists", metavar="TABLE", help="That of therapists; it has id, is_independent and vetting_status.")
@click.option("--users", metavar="TABLE", help="That with therapists' full_name and email, by their user_id.")
@click.option("--replace", is_flag=True, help="Drop other triggers that fill the queue from these tables.")
@click.option("--detach", is_flag=True, help="Take eventsync's triggers off these tables; what is queued stays.")
@json_option
def attach_command(
    *, practices: str | None, therapists: str | None, users: str | None, replace: bool, detach: bool, as_json: bool
) -> None:
    """Let tables fill the queue: each change of an organization is queued by the transaction that makes it.

    Triggers are all that is added, to all the tables that are named or to none; giving the command again changes
    nothing. Tables may have their schema before them; without any, `practices` and `therapists` of the search path are
    taken, where they exist.

    New practices are registered, and therapists once they are independent and approved; what Colectiva sees of them is
    updated (name, e-mail, tax id, type, plan, whether they are active), and they are deactivated when they end.
    TRUNCATE deactivates all that a table holds, unless a single partition is emptied; DROP TABLE tells nothing. Rows
    that are there already are not queued: the SQL that does is printed.
    """
    if users is not None and therapists is None:
        raise click.UsageError("--users belongs to --therapists")
    if detach and replace:
        raise click.UsageError("--detach puts no trigger in place of others: leave --replace away")
    named = [
        Source(EntityType.PRACTICE, practices) if practices is not None else None,
        Source(EntityType.THERAPIST, therapists, users) if therapists is not None else None,
    ]
    sources = [source for source in named if source is not None]
    if detach:
        _show_detached(with_installation(lambda at: _detach(at, sources)), as_json=as_json)
    else:
        _show_attached(with_installation(lambda at: _attach(at, sources, replaces=replace)), as_json=as_json)


async def _attach(at: Installation, sources: Sequence[Source], *, replaces: bool) -> list[Attached]:
    tables = OutboundSources(at.database)
    return await tables.attach(sources or await _usual(tables), replaces=replaces)


async def _detach(at: Installation, sources: Sequence[Source]) -> list[Detached]:
    tables = OutboundSources(at.database)
    return await tables.detach([source.table for source in sources or await _usual(tables)])


async def _usual(tables: OutboundSources) -> list[Source]:
    """Take what the search path has. Raises Rejected where that is nothing."""
    existing = await tables.existing(list(_USUAL.values()))
    if not existing:
        raise Rejected(
            "no_such_table", "there is neither practices nor therapists: name a table with --practices TABLE"
        )
    return [Source(entity_type, table) for entity_type, table in _USUAL.items() if table in existing]


def _show_attached(attached: Sequence[Attached], *, as_json: bool) -> None:
    if as_json:
        show_json([asdict(entry) for entry in attached])
        return
    for entry in attached:
        names = "" if entry.users is None else f" (names from {entry.users})"
        done = "fills the queue now" if entry.is_new else "fills the queue already, nothing was changed"
        click.echo(f"{entry.table}{names}: {done}")
        if entry.dropped:
            click.echo(f"  dropped: {', '.join(entry.dropped)}")
        click.echo(f"  organizations in it: {entry.organizations}; never queued: {entry.never_queued}")
        if entry.never_queued:
            click.echo(f"  to queue them, run this SQL:\n    {entry.queue_them};")


def _show_detached(detached: Sequence[Detached], *, as_json: bool) -> None:
    if as_json:
        show_json([asdict(entry) for entry in detached])
        return
    for entry in detached:
        done = "fills the queue no more" if entry.was_attached else "did not fill the queue, nothing was changed"
        click.echo(f"{entry.table}: {done}")
