"""`eventsync check`: tries every part that the installation relies on, and says what to do about each that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial

import aiohttp
import click

from eventsync.bus.rabbit import RabbitBus
from eventsync.cli.accounts import account_of
from eventsync.cli.loop import run_async
from eventsync.cli.output import examples, json_option, show_json, show_table
from eventsync.cli.session import Installation, installation_of, open_database
from eventsync.crypto import Keyring
from eventsync.domain.connections import Connection
from eventsync.domain.errors import EventsyncError, Misconfigured, Transient
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.migrations import check_schema, migrate
from eventsync.postgres.retention import Retention
from eventsync.postgres.sealed import open_samples
from eventsync.settings import Settings, load_settings
from eventsync.stages.bus_link import BusLink
from eventsync.telemetry import Metrics
from eventsync.vendorkit.budget import BudgetSpent
from eventsync.wiring import database_in_use, keyring_of, utc_now
from eventsync.wiring.accounts import budget_of

_LISTEN_TIMEOUT_S = 5.0
_LEAST_AHEAD = timedelta(days=3)


class State(StrEnum):
    """What became of a part's check."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part, how it is, and what is to be known or done about it."""

    part: str
    state: State
    advice: str


@click.command("check", epilog=examples("eventsync check", "eventsync check --offline --json"))
@click.option("--offline", is_flag=True, help="Leave the vendors alone: no API call is made.")
@json_option
@click.pass_context
def check_command(ctx: click.Context, offline: bool, as_json: bool) -> None:
    """Check settings, database, LISTEN, broker, encryption keys, partitions and each connection's credentials.

    Each connection costs one API call. Ends with 1 when anything fails, and says what to do.
    """
    findings = run_async(inspect(load_settings(), asks_vendors=not offline))
    failed = any(finding.state is State.FAILED for finding in findings)
    if as_json:
        rows = [{"part": f.part, "state": f.state.value, "advice": f.advice} for f in findings]
        show_json({"ok": not failed, "parts": rows})
    else:
        show_table(["part", "state", "what to do"], [(f.part, f.state.value, f.advice) for f in findings])
    ctx.exit(1 if failed else 0)


async def inspect(settings: Settings, *, asks_vendors: bool) -> list[Finding]:
    """Try every part, in the order in which they build on each other."""
    findings = [Finding("settings", State.OK, "")]
    keyrings: list[Keyring] = []

    async def open_keys() -> str:
        keyrings.append(keyring_of(settings))
        return ""

    findings.append(await _try("encryption keys", open_keys))
    try:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database_in_use(settings))
            if settings.database_url is None:
                await migrate(url)
            database = await stack.enter_async_context(open_database(url))
            await database.ping()
            findings.append(Finding("database", State.OK, ""))
            findings += await _inspect_database(settings, url, database)
            if keyrings and findings[-1].state is not State.SKIPPED:
                at = installation_of(settings, url, database, keyrings[0])
                findings += await _inspect_installation(at, asks_vendors=asks_vendors)
    except EventsyncError as error:
        findings.append(Finding("database", State.FAILED, str(error)))
    return findings


async def _inspect_database(settings: Settings, url: str, database: Database) -> list[Finding]:
    async def schema() -> str:
        async with database.session() as session:
            await check_schema(session)
        return ""

    async def listen() -> str:
        direct = settings.listen_database_url
        await _hear(url if direct is None else direct.get_secret_value())
        return ""

    findings = [await _try("schema", schema), await _try("LISTEN", listen)]
    if findings[0].state is State.FAILED:
        return [*findings, Finding("partitions, secrets, connections", State.SKIPPED, "mend the schema first")]
    return [*findings, await _try("partitions", lambda: _partitions(database))]


async def _inspect_installation(at: Installation, *, asks_vendors: bool) -> list[Finding]:
    async def secrets() -> str:
        return f"{await open_samples(at.database, at.keyring)} sealed values open"

    findings = [await _try("broker", lambda: _broker(at)), await _try("stored secrets", secrets)]
    if findings[-1].state is not State.OK:
        return findings
    async with aiohttp.ClientSession() as http:
        for connection in await at.connections.load_connections():
            part = f"connection {connection.number} ({connection.vendor})"
            if asks_vendors:
                findings.append(await _try(part, partial(_credentials, at, connection, http)))
            else:
                findings.append(Finding(part, State.SKIPPED, "not asked: --offline"))
    return findings


async def _try(part: str, probe: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(part, State.OK, await probe())
    except BudgetSpent as error:  # nothing is known, and nothing is wrong
        return Finding(part, State.SKIPPED, str(error))
    except EventsyncError as error:
        return Finding(part, State.FAILED, str(error))


async def _hear(url: str) -> None:
    listener = Listener(url, Metrics())
    listening = asyncio.create_task(listener.run())
    try:
        async with asyncio.timeout(_LISTEN_TIMEOUT_S):
            await listener.proven.wait()
    except TimeoutError:
        raise Transient(listener.reason) from None
    finally:
        listening.cancel()
        await asyncio.wait({listening})


async def _partitions(database: Database) -> str:
    until = await Retention(database).covered_until()
    if until is None or until - utc_now() < _LEAST_AHEAD:
        raise Misconfigured("they end in less than three days: keep the `scheduler` role running; now run `migrate`")
    return f"made until {until:%Y-%m-%d}"


async def _broker(at: Installation) -> str:
    if at.settings.amqp_url is None:
        return "none set: events travel within one process"
    bus = RabbitBus(at.settings.amqp_url.get_secret_value())
    try:
        # A queue that had to be made held nothing, so what was in flight becomes due again: BusLink sees to that.
        await BusLink(bus, at.queue).restore()
    finally:
        await bus.stop()
    return "connected, queues declared"


async def _credentials(at: Installation, connection: Connection, http: aiohttp.ClientSession) -> str:
    await account_of(at, connection, http).check_credentials()
    report = await budget_of(at.database, connection, at.clock).report(at.clock())
    day = "any number" if report.left_today is None else report.left_today
    return f"credentials accepted; API calls left: {report.left_this_minute} this minute, {day} today"
