"""`eventsync events replay`: applies earlier events again, after a look at what that would do."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.progress import Progress

from eventsync.cli.event_filters import FILTER_NAMES, filter_options, read_filter
from eventsync.cli.output import examples, json_option, show_json, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.events import QueueStatus
from eventsync.postgres.search import EventFilter, EventSearch
from eventsync.stages.replay import Action, Replayed, Replayer, Step

_PAGE = 500


@click.command(
    "replay",
    epilog=examples(
        "eventsync events replay 0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12",
        "eventsync events replay --state parked --since 24h --dry-run",
        "eventsync events replay --record appointment:65f0c0ffee65f0c0ffee0001 --yes",
    ),
)
@click.argument("event_ids", nargs=-1, type=click.UUID, metavar="[ID]...")
@filter_options
@click.option("--limit", type=click.IntRange(1, 100_000), default=1_000, show_default=True,
              help="At most so many of those that the filters find, the latest.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask before replaying what the filters find.")
@json_option
@click.pass_context
def replay_command(
    ctx: click.Context,
    /,
    *,
    event_ids: tuple[UUID, ...],
    limit: int,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Apply events again: those with the given IDs, or those that the filters find.

    A parked event gets a fresh start. A finished one is repeated by a new event with the same content; what is newer
    stays. Many at once never hold up fresh webhooks. Ends with 1 where some could not be replayed.
    """
    is_filtered = any(given[name] is not None for name in FILTER_NAMES)
    if bool(event_ids) == is_filtered:
        raise click.UsageError("name the events by their ids or by filters such as --state parked, and not by both")
    steps = with_installation(lambda at: _preview(at, event_ids, given, limit))
    if dry_run:
        _show_preview(steps, as_json=as_json)
        return
    if is_filtered and steps and not yes:
        _ask(steps)
    replayed = with_installation(lambda at: _replay(at, steps))
    _show_replayed(replayed, as_json=as_json)
    ctx.exit(0 if all(entry.done for entry in replayed) else 1)


async def _preview(at: Installation, event_ids: Sequence[UUID], given: dict[str, Any], limit: int) -> list[Step]:
    chosen = event_ids or await _found(at, await read_filter(at, given), limit)
    return await _replayer(at).preview(chosen)


async def _found(at: Installation, wanted: EventFilter, limit: int) -> list[UUID]:
    """List what the filters find, oldest first, as it came; what is still on its way needs no replay."""
    search, found = EventSearch(at.database, at.keyring), list[UUID]()
    cursor = None
    while len(found) < limit:
        page = await search.events(wanted, after=cursor, limit=min(_PAGE, limit - len(found)))
        if not page:
            break
        found += [event.event_id for event in page if event.finished_at or event.state == QueueStatus.PARKED]
        cursor = page[-1].cursor
    return found[::-1]


async def _replay(at: Installation, steps: Sequence[Step]) -> list[Replayed]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Replaying", total=len(steps))
        return await _replayer(at).replay(steps, on_progress=lambda done: progress.update(task, completed=done))


def _replayer(at: Installation) -> Replayer:
    return Replayer(at.queue, at.stored_events, at.clock, secrets.token_bytes)


def _ask(steps: Sequence[Step]) -> None:
    doable = sum(step.action is not Action.NONE for step in steps)
    if not sys.stdin.isatty():
        raise click.UsageError(f"{doable} events would be replayed: look with --dry-run, then say --yes")
    _show_preview(steps, as_json=False)
    click.confirm(f"Replay {doable} events?", abort=True, err=True)


def _show_preview(steps: Sequence[Step], *, as_json: bool) -> None:
    rows = [asdict(step) | {"action": step.action.value} for step in steps]
    columns = ["event_id", "event_type", "state", "action", "reason"]
    show_rows(rows, columns, as_json=as_json, empty="no such event")


def _show_replayed(replayed: Sequence[Replayed], *, as_json: bool) -> None:
    if as_json:
        show_json([asdict(entry) for entry in replayed])
        return
    for entry in replayed:
        if not entry.done:
            click.echo(f"{entry.event_id}: {entry.reason}", err=True)
        elif entry.new_event_id is not None:
            click.echo(f"{entry.event_id} is repeated as {entry.new_event_id}")
        else:
            click.echo(f"{entry.event_id} waits to be applied again")
    click.echo(f"{sum(entry.done for entry in replayed)} of {len(replayed)} events replayed", err=True)
