"""`eventsync migrate` and `eventsync database-url`: the database itself."""

from __future__ import annotations

import click

from eventsync.cli.loop import run_async
from eventsync.cli.output import examples, json_option, show_json
from eventsync.postgres.embedded import embedded_database_url
from eventsync.postgres.migrations import migrate
from eventsync.settings import Settings, load_settings
from eventsync.wiring import database_in_use


@click.command(
    "migrate",
    epilog=examples("eventsync migrate", "EVENTSYNC_DATABASE_URL=postgresql://app@db/eventsync eventsync migrate"),
)
@json_option
def migrate_command(as_json: bool) -> None:
    """Bring the database to the schema that this release needs; several at once do no harm."""
    applied = run_async(_migrate(load_settings()))
    if as_json:
        show_json({"applied": applied})
    else:
        click.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do: the schema is up to date")


async def _migrate(settings: Settings) -> list[str]:
    async with database_in_use(settings) as url:
        return await migrate(url)


@click.command("database-url", epilog=examples('psql "$(eventsync database-url)"', "eventsync database-url"))
def database_url_command() -> None:
    """Print the URL of the database in use, its password included, for psql and reports.

    The database in the data folder answers while `eventsync up` runs.
    """
    settings = load_settings()
    if settings.database_url is not None:
        click.echo(settings.database_url.get_secret_value())
        return
    runs_already = embedded_database_url(settings.data_dir) is not None
    click.echo(run_async(_url(settings)))
    if not runs_already:
        click.echo("This database is not running now: start it with `eventsync up`.", err=True)


async def _url(settings: Settings) -> str:
    async with database_in_use(settings) as url:
        return url
