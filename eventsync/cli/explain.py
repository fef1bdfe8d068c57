"""`eventsync explain`: the whole history of one record, in order, so that a person can follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from eventsync.cli.output import Row, cell, examples, first_few, json_option, show_json, show_table, when
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.changes import Source, Version
from eventsync.domain.drift import ReportedDrift
from eventsync.domain.errors import Rejected
from eventsync.domain.events import Outcome, QueueStatus
from eventsync.domain.records import RecordKind
from eventsync.postgres.drift import DriftFilter, DriftReport
from eventsync.postgres.explain import Explanation, RecordFacts, explain
from eventsync.postgres.search import EventSummary

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_FIELDS = 8
_SEQUENCED = frozenset({RecordKind.INTAKE, RecordKind.NOTE})  # ordered by a sequence of ours, not by a vendor's time


@click.command(
    "explain",
    epilog=examples(
        "eventsync explain appointment 65f0c0ffee65f0c0ffee0001",
        "eventsync explain patient 1122 --connection 1",
        "eventsync explain invoice 65f0c0ffee65f0c0ffee0021 --json",
    ),
)
@click.argument("kind", type=click.Choice([kind.value for kind in RecordKind]))
@click.argument("record_id", metavar="ID")
@click.option("--connection", help="Only this connection's record (number or id), where several have the same id.")
@json_option
def explain_command(kind: str, record_id: str, connection: str | None, as_json: bool) -> None:
    """Tell the whole history of one record: every event about it, what it changed, and what became of it.

    ID is the vendor's or eventsync's own. A patient's history includes the appointments that name the patient. What
    changed is told by the names of fields, never by their values. What a sweep corrected is told beside the events.
    """

    async def find(at: Installation) -> tuple[Explanation, list[ReportedDrift]]:
        found = await explain(at.database, RecordKind(kind), record_id, None)
        if connection is not None:
            found = _of_connection(found, (await at.connection(connection)).id)
        if not found.records and not found.events:
            raise Rejected("unknown_record", f"there is no such {kind}, and no event names one")
        return found, await _corrections(at, found.records)

    found, corrections = with_installation(find)
    if as_json:
        rows = {"records": list(map(_record_row, found.records)), "events": [asdict(e) for e in found.events]}
        show_json(rows | {"corrections": [asdict(correction) for correction in corrections]})
        return
    _tell(kind, found)
    if corrections:
        _tell_corrections(corrections)


async def _corrections(at: Installation, records: Sequence[RecordFacts]) -> list[ReportedDrift]:
    """Find what reads corrected that no event had brought, oldest first."""
    report = DriftReport(at.database)
    pages = [
        await report.findings(
            DriftFilter(connection_id=record.connection_id, kind=record.kind, external_id=record.external_id),
            at.clock(),
        )
        for record in records
    ]
    return sorted((finding for page in pages for finding in page), key=lambda finding: (finding.found_at, finding.id))


def _of_connection(found: Explanation, connection_id: object) -> Explanation:
    return replace(
        found,
        records=tuple(record for record in found.records if record.connection_id == connection_id),
        events=tuple(event for event in found.events if event.connection_id == connection_id),
    )


def _tell(kind: str, found: Explanation) -> None:
    for record in found.records:
        for line in _record_lines(record):
            click.echo(line)
        click.echo()
    if not found.records:
        click.echo(f"There is no such {kind} yet; these events name one:\n")
    rows = [
        (when(event.received_at), _name(event), event.state, _story(event), event.event_id) for event in found.events
    ]
    if rows:
        show_table(["received", "event", "state", "what it did", "event id"], rows)
    else:
        click.echo("No event about it is kept.")


def _tell_corrections(corrections: Sequence[ReportedDrift]) -> None:
    click.echo("\nCorrected by a read of the vendor's lists, since no event had brought it:")
    rows = [
        (
            when(found.found_at),
            "brought it" if found.is_new else f"changed {first_few(found.changed_fields, _SHOWN_FIELDS)}",
            found.expected_event or "none is sent for this",
            found.verdict.value.replace("_", " "),
        )
        for found in corrections
    ]
    show_table(["found", "what it did", "webhook", "became"], rows)


def _record_lines(record: RecordFacts) -> list[str]:
    source = "API" if record.version.source is Source.API else "webhook"
    gone = "" if record.deleted_at is None else f"; deleted {when(record.deleted_at)}"
    lines = [
        f"{record.kind.value} {cell(record.external_id)} of connection {record.connection_id}",
        f"  status    {cell(record.status)}{gone}",
        f"  version   {_position(record)}, by the vendor's {source}",
        f"  changed   {when(record.changed_at)}"
        + ("" if record.applied_event_id is None else f" by event {record.applied_event_id}"),
    ]
    if record.verified_at is not None:
        lines.append(f"  verified  {when(record.verified_at)}")
    if record.patient_id is not None:
        lines.append(f"  patient   {record.patient_id}")
    return lines


def _position(record: RecordFacts) -> str:
    if record.kind in _SEQUENCED:
        return f"read number {record.version.position}"
    return when(_EPOCH + timedelta(milliseconds=record.version.position))


def _name(event: EventSummary) -> str:
    name = event.event_type or "(not understood)"
    return f"{name} (replay)" if event.caused_by is not None else name


def _story(event: EventSummary) -> str:
    match event.state:
        case Outcome.APPLIED:
            return f"changed {first_few(event.changed_fields, _SHOWN_FIELDS)}{_later(event)}"
        case Outcome.UNCHANGED:
            return f"nothing: {event.reason or 'this was known already'}"
        case Outcome.STALE:
            return "nothing: something newer was there"
        case QueueStatus.PARKED:
            return f"waits for a person ({event.reason}): {event.error or 'see `eventsync events show`'}"
        case _:
            return f"is on its way{f', last try: {event.error}' if event.error else ''}"


def _later(event: EventSummary) -> str:
    if event.finished_at is None:
        return ""
    return f", {(event.finished_at - event.received_at) / timedelta(milliseconds=1):.0f} ms after it came"


def _record_row(record: RecordFacts) -> Row:
    row: dict[str, Any] = {
        name: getattr(record, name)
        for name in ("id", "connection_id", "external_id", "patient_id", "status", "verified_at", "deleted_at")
    }
    row |= {name: getattr(record, name) for name in ("changed_at", "applied_event_id", "created_at", "updated_at")}
    return row | {"kind": record.kind.value, "version": _version_row(record.version)}


def _version_row(version: Version) -> Row:
    return {
        "position": version.position,
        "deleted": version.deleted,
        "source": version.source.name.lower(),
        "authority": version.authority.name.lower(),
        "mapping_version": version.mapping_version,
        "content_hash": version.content_hash.hex(),
    }
