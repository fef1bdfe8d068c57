"""Phase two of the benchmark: looks for every accepted webhook in the database, and for whatever is wrong there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database, Session

_LOST = """
SELECT sent.id FROM unnest($1::uuid[]) AS sent(id)
WHERE NOT EXISTS (SELECT FROM event_history h WHERE h.event_id = sent.id)
ORDER BY sent.id
"""
# Each version of an appointment is sent once, so one that was applied twice is a double as well.
_DOUBLED = """
SELECT event_id FROM event_history GROUP BY event_id HAVING count(*) > 1
UNION
SELECT unnest(array_agg(event_id)) FROM event_history WHERE outcome = 'applied'
GROUP BY connection_id, entity_kind, entity_id, entity_version HAVING count(*) > 1
ORDER BY event_id
"""
_LEFT = "SELECT event_id FROM event_queue ORDER BY event_id"
_ROWS = """
SELECT external_id, vendor_status, start_time, end_time, duration_minutes, client_external_id, practitioner_name,
       service_name, location_name, price, source_version, deleted_at IS NULL AS is_alive
FROM appointments WHERE connection_id = $1
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, by ids: nothing, if all is well.

    `lost`: accepted, but without an end. `doubled`: ended twice, or their change was applied twice. `left`: still in
    the queue, those included that were set aside for a person. `wrong_rows`: appointments (the vendor's ids) that lack
    their row, or whose row is not the last version that was accepted.
    """

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    wrong_rows: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether every accepted webhook took effect exactly once."""
        return not (self.lost or self.doubled or self.left or self.wrong_rows)


async def verify(database: Database, connection_id: ConnectionId, accepted: Mapping[UUID, bytes]) -> Verdict:
    """Compare the database with what was accepted: bodies by the event's id. Raises Transient."""
    async with database.session() as session:
        return Verdict(
            lost=await _ids(session, _LOST, list(accepted)),
            doubled=await _ids(session, _DOUBLED),
            left=await _ids(session, _LEFT),
            wrong_rows=await _wrong_rows(session, connection_id, last_versions(accepted.values())),
        )


def last_versions(bodies: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """Find the newest version of each appointment among webhooks, by the vendor's id."""
    newest: dict[str, dict[str, Any]] = {}
    for body in bodies:
        appointment = orjson.loads(body)["Appointment"]
        held = newest.get(appointment["Id"])
        if held is None or held["LastModified"] < appointment["LastModified"]:
            newest[appointment["Id"]] = appointment
    return newest


async def _ids(session: Session, sql: str, *arguments: object) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in await session.fetch(sql, *arguments))


async def _wrong_rows(
    session: Session, connection_id: ConnectionId, expected: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    rows = {row["external_id"]: dict(row) for row in await session.fetch(_ROWS, connection_id)}
    return tuple(sorted(name for name, sent in expected.items() if rows.get(name) != _row(sent)))


def _row(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Write the row that an appointment must have, straight from what was sent: not by the mapping under test."""
    return {
        "external_id": sent["Id"],
        "vendor_status": sent["Status"],
        "start_time": _moment(sent["StartDate"]),
        "end_time": _moment(sent["EndDate"]),
        "duration_minutes": sent["Duration"],
        "client_external_id": str(sent["ClientId"]),
        "practitioner_name": sent["PractitionerName"],
        "service_name": sent["ServiceName"],
        "location_name": sent["LocationName"],
        "price": Decimal(sent["Price"]),
        "source_version": _moment(sent["LastModified"]),
        "is_alive": True,
    }


def _moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)
