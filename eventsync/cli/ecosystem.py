"""`eventsync ecosystem`: the outbound queue by hand, beside the workers that work it off by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime

import aiohttp
import click

from eventsync.cli.ecosystem_attach import attach_command
from eventsync.cli.ecosystem_sending import Result, Sending, in_how_long, open_screen
from eventsync.cli.output import Row, examples, json_option, show_json, show_rows, when
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.deliveries import ItemStatus
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.outbound import OutboundQueue, Preview
from eventsync.stages.deliver import Deliverer
from eventsync.vendorkit.registry import Registry
from eventsync.wiring.delivering import RegistryAccounts, make_deliverer

_USUAL_LIMIT = 10
_LARGEST_LIMIT = 10_000
_SHOWN_BEFORE_SENDING = 20
_NO_CONNECTION = (
    "there is no connection to Colectiva: make one with `eventsync connections add colectiva --org ORG`, or set"
    " COLECTIVA_API_KEY and COLECTIVA_URL (which make one where there never was any)"
)
_COLUMNS = ("organization", "action", "name", "plan", "active", "attempts", "behind", "next_attempt")


@click.group(
    "ecosystem",
    epilog=examples("eventsync ecosystem sync --dry-run", "eventsync ecosystem attach --practices app.practices"),
)
def ecosystem_group() -> None:
    """Register organizations at Colectiva: the queue `ecosystem_sync_queue`, and what fills it."""


ecosystem_group.add_command(attach_command)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the options ask for; `at_most` of None goes on until nothing is due."""

    at_most: int | None
    as_json: bool


@ecosystem_group.command(
    "sync",
    epilog=examples(
        "eventsync ecosystem sync --dry-run",
        "eventsync ecosystem sync",
        "eventsync ecosystem sync --limit 50",
        "eventsync ecosystem sync --all",
    ),
)
@click.option("--dry-run", is_flag=True, help="Only show what would be sent; nothing is sent or written.")
@click.option(
    "--limit",
    type=click.IntRange(1, _LARGEST_LIMIT),
    metavar="N",
    show_default=str(_USUAL_LIMIT),
    help="Make at most so many attempts.",
)
@click.option("--all", "is_all", is_flag=True, help="Go on until nothing is due.")
@json_option
@click.pass_context
def sync_command(ctx: click.Context, *, dry_run: bool, limit: int | None, is_all: bool, as_json: bool) -> None:
    """Send what is due in the queue, each item once, and tell what became of it.

    Workers do this by themselves as soon as an item is queued; both may go on at once, and nothing is sent twice for
    it. Items that wait for their next attempt are shown, and not sent before their time.

    Ends with 0 where everything that was sent was accepted, or nothing was due, and with 1 where something was refused
    or failed, or nothing may be sent for now. Ctrl-C ends it after the attempt under way.
    """
    if is_all and limit is not None:
        raise click.UsageError("--all sends whatever is due: leave --limit away")
    asked = _Asked(None if is_all else limit or _USUAL_LIMIT, as_json)
    if dry_run:
        with_installation(lambda at: _show_what_waits(at, asked))
    elif not with_installation(lambda at: _sync(at, asked)):
        ctx.exit(1)


@dataclass(frozen=True, slots=True)
class _Desk:
    """What sending needs; `registry` writes what would be sent."""

    queue: OutboundQueue
    registry: Registry
    deliverer: Deliverer


@asynccontextmanager
async def _open_desk(at: Installation) -> AsyncIterator[_Desk]:
    """Open the account as workers do, made of the settings where there is none. Raises Misconfigured without either."""
    async with aiohttp.ClientSession() as http:
        accounts = _accounts(at, http)
        account = await accounts.open()
        if account is None:
            raise Misconfigured(_NO_CONNECTION)
        deliverer = make_deliverer(at.database, accounts.open, at.clock)
        yield _Desk(OutboundQueue(at.database), account.registry, deliverer)


@asynccontextmanager
async def _open_registry_to_look_at(at: Installation) -> AsyncIterator[Registry]:
    """Open the account that would be sent to, or that the settings would make. Raises Misconfigured without either."""
    async with aiohttp.ClientSession() as http:
        registry = await _accounts(at, http).look()
        if registry is None:
            raise Misconfigured(_NO_CONNECTION)
        yield registry


def _accounts(at: Installation, http: aiohttp.ClientSession) -> RegistryAccounts:
    return RegistryAccounts(at.database, at.connections, at.registry_vendors, http, at.clock, at.settings)


async def _show_what_waits(at: Installation, asked: _Asked) -> None:
    """Show what would be sent, in JSON with the bodies of the POSTs."""
    async with _open_registry_to_look_at(at) as registry:
        previews = await OutboundQueue(at.database).preview(asked.at_most or _LARGEST_LIMIT)
        rows = [_waiting_row(found, registry, at.clock()) for found in previews]
    if asked.as_json:
        show_json(rows)
        return
    _show_waiting(rows, at.clock())
    click.echo("Nothing was sent or written.", err=True)


async def _sync(at: Installation, asked: _Asked) -> bool:
    """Send, and tell; answers whether all that was tried went well."""
    async with _open_desk(at) as desk:
        await desk.deliverer.return_stuck()
        previews = await desk.queue.preview(asked.at_most or _LARGEST_LIMIT)
        waiting = [_waiting_row(found, desk.registry, at.clock()) for found in previews]
        if not asked.as_json:
            _show_waiting(waiting, at.clock(), at_most=_SHOWN_BEFORE_SENDING)
        sending = Sending(desk.deliverer, at.clock, asked.at_most)
        try:
            with open_screen(_due_items(waiting), has_bar=asked.at_most is None, has_lines=not asked.as_json) as screen:
                await sending.to_end(screen)
        except Transient as error:
            sending.stopped_because = str(error)
        finally:  # Ctrl-C passes here too: what was done is told
            standing = await _standing(desk.queue, at.clock())
            _report(sending, waiting, standing, as_json=asked.as_json)
    return sending.is_well and standing.paused_because is None


def _waiting_row(preview: Preview, registry: Registry, now: datetime) -> Row:
    """Draw an item that waits; name, plan and whether it is active are those that would be sent."""
    item, body = preview.item, dict(registry.body_of(preview.item))
    billing = body.get("billing", {})
    is_due = preview.available_at is None or preview.available_at <= now
    return {
        "id": item.id,
        "entity_type": item.entity_type,
        "ecosystem_org_id": item.ecosystem_org_id,
        "action": item.action.value,
        "name": body.get("name"),
        "plan": billing.get("plan"),
        "active": billing.get("status") == "active",
        "attempts": preview.attempts,
        "behind": preview.behind,
        "next_attempt_at": None if is_due else preview.available_at,
        "body": body,
    }


def _show_waiting(rows: Sequence[Row], now: datetime, *, at_most: int = _LARGEST_LIMIT) -> None:
    shown = [
        {**row, "organization": row["ecosystem_org_id"], "next_attempt": in_how_long(row["next_attempt_at"], now)}
        for row in rows[:at_most]
    ]
    show_rows(shown, _COLUMNS, as_json=False, empty="nothing waits to be sent")
    if len(rows) > at_most:
        click.echo(f"… and {len(rows) - at_most} more")


def _due_items(rows: Sequence[Row]) -> int:
    """Count what can be sent now, with what waits behind it."""
    return sum(1 + int(row["behind"]) for row in rows if row["next_attempt_at"] is None)


@dataclass(frozen=True, slots=True)
class _Standing:
    """How the queue stands afterwards; None where PostgreSQL could not say."""

    waiting: int | None = None
    next_attempt: str | None = None
    failed: int | None = None
    paused_because: str | None = None


async def _standing(queue: OutboundQueue, now: datetime) -> _Standing:
    try:
        measure, next_at = await queue.measure(), await queue.next_due(now)
    except Transient:
        return _Standing()
    waiting = measure.counts[ItemStatus.PENDING]
    next_attempt = in_how_long(next_at, now) if waiting and next_at is not None else None
    paused_because = (
        None if measure.paused_at is None else f"{measure.paused_reason} Paused since {when(measure.paused_at)}."
    )
    return _Standing(waiting, next_attempt, measure.counts[ItemStatus.FAILED], paused_because)


def _report(sending: Sending, waiting: Sequence[Row], standing: _Standing, *, as_json: bool) -> None:
    """Print the sums; what stopped it, and what to do about it, goes to the standard error."""
    if as_json:
        show_json({"would_send": waiting, "results": sending.rows, "summary": _summary_row(sending, standing)})
        return
    click.echo(_summary_line(sending, standing))
    if standing.paused_because is not None:
        click.echo(f"The queue is paused: {standing.paused_because}", err=True)
    elif sending.stopped_because is not None:
        click.echo(f"Stopped: {sending.stopped_because}", err=True)


def _summary_row(sending: Sending, standing: _Standing) -> Row:
    counts = {result.value: sending.counts[result] for result in Result}
    superseded = sum(row["superseded"] for row in sending.rows)
    return {**counts, "superseded": superseded, **asdict(standing), "stopped_because": sending.stopped_because}


def _summary_line(sending: Sending, standing: _Standing) -> str:
    counts, is_paused = sending.counts, standing.paused_because is not None
    told = ", ".join(f"{counts[result]} {result.value}" for result in Result if counts[result])
    parts = [told or ("nothing was sent" if is_paused else "nothing was due")]
    if standing.waiting:
        later = "" if is_paused or standing.next_attempt is None else f", the next attempt is {standing.next_attempt}"
        parts.append(f"still waiting: {standing.waiting}{later}")
    if standing.failed:
        parts.append(f"failed in all, for a person to look at: {standing.failed}")
    return "; ".join(parts)
