"""`eventsync events`: what was received and what became of it; shown, and applied again."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any
from uuid import UUID

import click

from eventsync.cli.event_filters import filter_options, read_filter
from eventsync.cli.output import Row, cell, examples, first_few, json_option, show_json, show_record, show_rows
from eventsync.cli.replay import replay_command
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.errors import Rejected
from eventsync.domain.events import EventId, received_at_of
from eventsync.domain.payloads import inflate, parse_json
from eventsync.postgres.access import Access
from eventsync.postgres.search import EventCursor, EventDetail, EventSearch, EventSummary, Payload

_SHOWN_FIELDS = 3


@click.group(
    "events",
    epilog=examples(
        "eventsync events list --state parked",
        "eventsync events show 0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12",
        "eventsync events replay --state parked --since 24h --dry-run",
    ),
)
def events_group() -> None:
    """Search what was received, see what became of it, and apply it again."""


events_group.add_command(replay_command)


@events_group.command(
    "list",
    epilog=examples(
        "eventsync events list --state parked",
        "eventsync events list --type AppointmentDeleted --since 24h --json",
        "eventsync events list --record appointment:65f0c0ffee65f0c0ffee0001",
    ),
)
@filter_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--before", type=click.UUID, metavar="ID", help="Go on after the id that ended the page before.")
@json_option
def list_events(*, limit: int, before: UUID | None, as_json: bool, **given: Any) -> None:
    """List events, the latest first; without what was in them."""
    after = None if before is None else _cursor(before)

    async def find(at: Installation) -> list[EventSummary]:
        search = EventSearch(at.database, at.keyring)
        return await search.events(await read_filter(at, given), after=after, limit=limit)

    found = with_installation(find)
    show_rows(
        [asdict(event) if as_json else _row(event) for event in found],
        ["received_at", "event_type", "state", "reason", "record", "changed_fields", "event_id"],
        as_json=as_json,
        empty="no such event",
    )
    if len(found) == limit and not as_json:
        click.echo(f"There may be more: --before {found[-1].event_id}", err=True)


@events_group.command(
    "show",
    epilog=examples(
        "eventsync events show 0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12",
        "eventsync events show 0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12 --body",
    ),
)
@click.argument("event_id", type=click.UUID, metavar="ID")
@click.option("--body", "with_body", is_flag=True, help="What was received as well: personal data, so this is logged.")
@json_option
def show_event(event_id: UUID, with_body: bool, as_json: bool) -> None:
    """Show the event with this ID: what it was about, and what became of it.

    With --body also the request's headers and body, as long as they are kept; the access log notes who saw them.
    """

    async def find(at: Installation) -> EventDetail:
        if with_body:
            await at.access_log.write(Access(at.clock(), at.actor, "read_event_body", f"event:{event_id}"))
        found = await EventSearch(at.database, at.keyring).event(event_id, None, with_payload=with_body)
        if found is None:
            raise Rejected("unknown_event", "there is no such event: see `eventsync events list`")
        return found

    found = with_installation(find)
    record = asdict(found.summary) | {"queue": None if found.place is None else asdict(found.place)}
    if not with_body:
        show_record(record, as_json=as_json)
    elif as_json:
        show_json(record | {"request": None if found.payload is None else _request(found.payload)})
    else:
        show_record(record, as_json=False)
        _show_request(found.payload)


def _row(event: EventSummary) -> Row:
    record = None if event.entity_id is None else f"{event.entity_kind}:{event.entity_id}"  # as --record takes it
    return asdict(event) | {"record": record, "changed_fields": first_few(event.changed_fields, _SHOWN_FIELDS)}


def _cursor(event_id: UUID) -> EventCursor:
    try:
        return EventCursor(received_at_of(event_id), EventId(event_id))
    except OverflowError:
        raise click.BadParameter("this is not the id of an event", param_hint="--before") from None


def _request(payload: Payload) -> Row:
    """Give a body as JSON where it is that, else as base64 text."""
    request: dict[str, Any] = {"headers": dict(payload.headers)}
    try:
        return request | {"body": parse_json(inflate(payload.body, request["headers"]))}
    except Rejected as error:
        return request | {"body_is": error.reason, "body_base64": base64.b64encode(payload.body).decode()}


def _show_request(payload: Payload | None) -> None:
    if payload is None:
        click.echo("\nThe request is kept no longer (EVENTSYNC_RAW_RETENTION_DAYS).")
        return
    click.echo()
    for name, value in payload.headers:
        click.echo(f"{cell(name)}: {cell(value)}")
    click.echo()
    request = _request(payload)
    if "body" in request:
        show_json(request["body"])
    else:
        click.echo(cell(payload.body.decode(errors="replace")))
