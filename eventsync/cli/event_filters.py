"""Which events are meant: the options that `events list` and `events replay` share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from eventsync.cli.session import Installation
from eventsync.domain.events import Outcome, QueueStatus
from eventsync.domain.records import RecordKind
from eventsync.postgres.search import EventFilter
from eventsync.wiring import utc_now

Command = Callable[..., Any]

STATES = tuple(state.value for state in (*QueueStatus, *Outcome))
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
FILTER_NAMES = ("org", "connection", "state", "event_type", "record", "since", "until")


class Moment(click.ParamType[datetime]):
    """A time: `2026-03-31`, `2026-03-31T09:30Z`, or how long ago: `90m`, `24h`, `7d`. UTC where no zone is given."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the option's text."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        try:
            if ago := _AGO.fullmatch(text):
                return utc_now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail("write a time as 2026-03-31T09:30Z, or how long ago: 90m, 24h, 7d", param, ctx)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option("--org", help="Only this organization's (id, external id or number)."),
    click.option("--connection", help="Only this connection's (number or id)."),
    click.option("--state", type=click.Choice(STATES), help="Only events that stand so, or ended so."),
    click.option("--type", "event_type", help="Only this name of the vendor's, such as AppointmentCreated."),
    click.option("--record", metavar="KIND:ID", help="Only about this record, such as appointment:65f0c0ff."),
    click.option("--since", type=Moment(), help="Received at or after; 2026-03-31T09:30Z, or ago: 90m, 24h, 7d."),
    click.option("--until", type=Moment(), help="Received before."),
)


def filter_options(command: Command) -> Command:
    """Give a command the filters; they arrive as keyword arguments by FILTER_NAMES."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


async def read_filter(at: Installation, given: Mapping[str, Any]) -> EventFilter:
    """Look up what the filters name. Raises Rejected where it is not there, click.UsageError for a wrong --record."""
    kind, record_id = _record(given["record"])
    return EventFilter(
        organization_id=None if given["org"] is None else (await at.organization(given["org"])).id,
        connection_id=None if given["connection"] is None else (await at.connection(given["connection"])).id,
        state=given["state"],
        event_type=given["event_type"],
        entity_kind=kind,
        entity_id=record_id,
        since=given["since"],
        until=given["until"],
    )


def _record(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    kind, separator, record_id = text.partition(":")
    if not separator or not record_id or kind not in set(RecordKind):
        raise click.UsageError(f"write --record as KIND:ID, where KIND is one of {', '.join(RecordKind)}")
    return kind, record_id
