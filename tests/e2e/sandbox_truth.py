"""Holds eventsync's rows against the pretend practice's own data, by rules written down here a second time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from eventsync.sandbox import Fact

_STATUSES = {
    "Confirmed": "confirmed",
    "WaitingConfirmation": "scheduled",
    "Declined": "cancelled",
    "Canceled": "cancelled",
    "Missed": "no_show",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def expected_appointments(facts: Iterable[Fact]) -> dict[str, dict[str, Any]]:
    """What the rows must say, by the vendor's id."""
    return {fact.data["Id"]: _expected(fact) for fact in facts if fact.kind == "appointment"}


async def appointment_rows(database: asyncpg.Connection) -> dict[str, dict[str, Any]]:
    """What the rows say, by the vendor's id."""
    rows = await database.fetch(
        "SELECT *, details->>'ClientNote' AS client_note, details->>'PractitionerNote' AS practitioner_note,"
        " details->>'AttendanceConfirmationResponse' AS attendance FROM appointments"
    )
    return {
        row["external_id"]: {
            "deleted": row["deleted_at"] is not None,
            "status": row["status"],
            "start": row["start_time"],
            "end": row["end_time"],
            "modified": row["source_version"],
            "client": row["client_external_id"],
            "practitioner": (row["practitioner_external_id"], row["practitioner_name"]),
            "service": (row["service_external_id"], row["service_name"]),
            "location": (row["location_external_id"], row["location_name"]),
            "notes": (row["client_note"], row["practitioner_note"]),
            "attendance": row["attendance"],
            "price": row["price"],
            "reason": row["cancellation_reason"],
        }
        for row in rows
    }


def expected_clients(facts: Iterable[Fact]) -> dict[str, dict[str, Any]]:
    """What the rows of clients must say, by the vendor's id; one who was deleted before anybody looked needs none."""
    return {str(fact.data["ClientId"]): _expected_client(fact) for fact in facts if fact.kind == "client"}


async def client_rows(database: asyncpg.Connection) -> dict[str, dict[str, Any]]:
    """What the rows of clients say, by the vendor's id."""
    rows = await database.fetch("SELECT * FROM patient_identities")
    return {
        row["external_id"]: {
            "deleted": row["deleted_at"] is not None,
            "name": (row["first_name"], row["last_name"]),
            "email": row["email"],
            "phone": row["phone"],
            "born": row["date_of_birth"],
            "archived": row["archived"],
        }
        for row in rows
    }


async def document_states(database: asyncpg.Connection, kind: str) -> dict[str, str | None]:
    """Every live document of a kind with its status, by the vendor's id."""
    rows = await database.fetch(
        "SELECT external_id, status FROM documents WHERE kind = $1 AND deleted_at IS NULL", kind
    )
    return {row["external_id"]: row["status"] for row in rows}


def _expected(fact: Fact) -> dict[str, Any]:
    data = fact.data
    return {
        "deleted": fact.deleted,
        "status": _STATUSES[data["Status"]],
        "start": _moment(data["StartDate"]),
        "end": _moment(data["EndDate"]),
        "modified": _moment(data["LastModified"]),
        "client": None if data["ClientId"] is None else str(int(data["ClientId"])),
        "practitioner": (data["PractitionerId"], data["PractitionerName"]),
        "service": (data["ServiceId"], data["ServiceName"]),
        "location": (data["LocationId"], data["LocationName"]),
        "notes": (data["ClientNote"], data["PractitionerNote"]),
        "attendance": data["AttendanceConfirmationResponse"],
        "price": Decimal(str(data["Price"])).quantize(Decimal("0.01")),
        "reason": data["FullCancellationReason"] or None,
    }


def _expected_client(fact: Fact) -> dict[str, Any]:
    data = fact.data
    return {
        "deleted": fact.deleted,
        "name": (data["FirstName"] or "Unknown", data["LastName"] or "Unknown"),
        "email": data["Email"],
        "phone": data["Phone"],
        "born": None if data["DateOfBirth"] is None else _moment(data["DateOfBirth"]).date(),
        "archived": data["Archived"],
    }


def _moment(unix_ms: float) -> datetime:
    return _EPOCH + timedelta(milliseconds=int(unix_ms))
