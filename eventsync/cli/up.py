"""`eventsync up`: everything in one process, with a database of its own and, if wanted, pretend vendors."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import click
from rich.console import Console

from eventsync.cli.live import LiveView
from eventsync.cli.loop import run_async
from eventsync.cli.run import stop_on_signals
from eventsync.postgres.access import ApiTokens
from eventsync.postgres.access import Role as TokenRole
from eventsync.postgres.data_lock import DataDirLock
from eventsync.postgres.migrations import migrate
from eventsync.settings import Settings, load_settings
from eventsync.telemetry import configure_logging
from eventsync.wiring import Role, keyring_of
from eventsync.wiring.demo import DemoOptions, keep_busy, open_demo
from eventsync.wiring.garbage import collect_seldom
from eventsync.wiring.home import DatabaseHome
from eventsync.wiring.process import Process, ProcessOptions, open_process


@click.command("up")
@click.option("--sandbox", is_flag=True, help="Add pretend vendors: an IntakeQ practice, a Colectiva.")
@click.option("--host", help="Address to listen on (EVENTSYNC_HOST, 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port for webhooks and the API (EVENTSYNC_PORT, 8080).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where everything is kept (EVENTSYNC_DATA_DIR).")
@click.option("--sandbox-port", type=click.IntRange(0, 65535), default=0, help="Port of the practice (a free one).")
@click.option("--colectiva-port", type=click.IntRange(0, 65535), default=0, help="Port of Colectiva (a free one).")
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=DemoOptions().rate_per_s,
    show_default=True,
    help="The practice's events per second.",
)
def up_command(
    *,
    sandbox: bool,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    sandbox_port: int,
    colectiva_port: int,
    rate: float,
) -> None:
    """Run everything in one process until Ctrl-C: no database, broker or account needed.

    Unless EVENTSYNC_DATABASE_URL is set, a PostgreSQL of its own runs in the data folder (.eventsync); unless
    EVENTSYNC_AMQP_URL is set, events travel within the process. Starting again continues where it was, also after a
    crash.

    With --sandbox, a pretend IntakeQ practice keeps sending webhooks, and invented practices and therapists are
    registered at a pretend Colectiva, unless registrations are your own: with COLECTIVA_API_KEY, a connection to
    Colectiva or tables that `eventsync ecosystem attach` was given, none are invented.

    \b
    Examples:
      eventsync up --sandbox
      eventsync up --port 9000 --data-dir /var/lib/eventsync
    """  # noqa: D301  # \b is click's mark for text that is not to be wrapped
    settings = load_settings()
    changes = {"host": host, "port": port, "data_dir": data_dir}
    settings = settings.model_copy(update={name: value for name, value in changes.items() if value is not None})
    configure_logging(settings.log_format.value)
    with DataDirLock(settings.data_dir):
        run_async(_up(settings, DemoOptions(sandbox_port, colectiva_port, rate) if sandbox else None))


async def _up(settings: Settings, wanted: DemoOptions | None) -> None:
    console = Console(soft_wrap=True, highlight=False)
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(DatabaseHome(settings))
        applied = await migrate(home.url)
        if home.notice:
            console.print(home.notice)
        if applied:
            console.print(f"Database prepared ({', '.join(applied)}).")
        process = await stack.enter_async_context(open_process(_options(settings, home)))
        collect_seldom()
        demo = None if wanted is None else await stack.enter_async_context(open_demo(process, wanted))
        await stack.enter_async_context(process.running(stop))
        base_url = process.servers[0].address
        if demo is not None:
            await stack.enter_async_context(keep_busy(process, demo, base_url))
        await _greet(console, process, base_url)
        if demo is not None and demo.notice is not None:
            console.print(demo.notice, markup=False)
        await LiveView(process, demo, console).show_until(stop)
        console.print("Stopping: what is in flight is brought to its end …")
    console.print("Stopped. Start again to go on where this ended.")


def _options(settings: Settings, home: DatabaseHome) -> ProcessOptions:
    return ProcessOptions(
        settings=settings,
        roles=frozenset(Role),
        database_url=home.url,
        keyring=keyring_of(settings),
        host=settings.host,
        port=settings.port,
        companions=(home,),
    )


async def _greet(console: Console, process: Process, base_url: str) -> None:
    console.print(f"[bold]eventsync[/bold] listens on {base_url} (/healthz, /readyz, /metrics)")
    console.print(f"Look around from another terminal: {_elsewhere(process.options)}eventsync events list")
    tokens = ApiTokens(process.database)
    if await tokens.tokens(None):
        console.print("Sign in with the admin token that the first start printed, or `eventsync tokens add`.")
    else:
        new = await tokens.add(TokenRole.ADMIN, None, process.clock(), "first start")
        console.print(f"Sign in with this admin token, which is shown only now: [bold]{new.token}[/bold]")


def _elsewhere(options: ProcessOptions) -> str:
    """Write the settings that other commands need to find this one, where they are not the usual ones."""
    usual = Settings.model_fields
    named = {"data_dir": options.settings.data_dir, "port": options.port}
    return "".join(
        f"EVENTSYNC_{name.upper()}={value} " for name, value in named.items() if value != usual[name].default
    )
