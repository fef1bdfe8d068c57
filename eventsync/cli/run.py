"""`eventsync run`: one process with the roles that are named."""

from __future__ import annotations

import asyncio
import signal

import click

from eventsync.cli.loop import run_async
from eventsync.settings import Settings, load_settings
from eventsync.telemetry import configure_logging
from eventsync.wiring import Role, database_in_use, keyring_of
from eventsync.wiring.garbage import collect_seldom
from eventsync.wiring.process import ProcessOptions, check_roles, open_process

_DEFAULT_HEALTH_PORT = 8081


@click.command("run")
@click.argument("roles", nargs=-1, type=click.Choice([role.value for role in Role]), metavar="[ROLE]...")
@click.option("--host", help="Address to listen on (EVENTSYNC_HOST, 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port for webhooks and the API (EVENTSYNC_PORT, 8080).")
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    help=f"Port for /healthz, /readyz and /metrics. Roles that serve nothing else use {_DEFAULT_HEALTH_PORT}.",
)
def run_command(roles: tuple[str, ...], host: str | None, port: int | None, health_port: int | None) -> None:
    """Run ROLEs in this process until it is told to stop (SIGTERM or Ctrl-C); all of them when none is named.

    \b
    ingress    takes the vendors' webhooks, makes them durable, answers
    relay      carries events from PostgreSQL to the bus
    consumer   applies events to the records
    worker     slow work: reads from vendors' APIs and deliveries to them, within the budget
    scheduler  partitions, retention, linking
    api        the management API

    relay, consumer and worker find each other through RabbitMQ (EVENTSYNC_AMQP_URL); without it they must share one
    process.

    \b
    Examples:
      eventsync run
      eventsync run ingress relay --port 8080
      eventsync run consumer --health-port 8082
    """  # noqa: D301  # \b is click's mark for text that is not to be wrapped
    settings = load_settings()
    chosen = frozenset(Role(role) for role in roles) or frozenset(Role)
    check_roles(chosen, settings)
    if health_port is None and not chosen & {Role.INGRESS, Role.API}:
        health_port = _DEFAULT_HEALTH_PORT
    configure_logging(settings.log_format.value)
    run_async(_run(settings, chosen, host or settings.host, settings.port if port is None else port, health_port))


async def _run(settings: Settings, roles: frozenset[Role], host: str, port: int, health_port: int | None) -> None:
    async with database_in_use(settings) as database_url:
        options = ProcessOptions(
            settings=settings,
            roles=roles,
            database_url=database_url,
            keyring=keyring_of(settings),
            host=host,
            port=port,
            health_port=health_port,
        )
        async with open_process(options) as process:
            stop = stop_on_signals()
            collect_seldom()
            async with process.running(stop):
                await stop.wait()


def stop_on_signals() -> asyncio.Event:
    """Make the event that SIGTERM and Ctrl-C set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
