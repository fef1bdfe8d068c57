"""What can be asked of IntakeQ's lists: one filter for all of them, and what each list calls its parts. Pure.

Dates are whole days, and whose midnight they mean is not documented: ask for a day more on either side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from types import MappingProxyType

from eventsync.domain.records import RecordKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """Which rows to list; None leaves a part out.

    `start_date` and `end_date` filter the day that the record is about (scheduled, issued, written),
    `updated_since` the day of its last change, and `deleted_only` lists what was deleted in the last ten days.
    `search` matches parts of a client's name or e-mail, or in the list of clients a client's number exactly.
    """

    start_date: date | None = None
    end_date: date | None = None
    updated_since: date | None = None
    deleted_only: bool = False
    search: str | None = None
    client_id: str | None = None
    status: str | None = None
    practitioner_email: str | None = None


EVERYTHING = ListFilter()

_DAYS = {"start_date": "startDate", "end_date": "endDate"}
_SINCE = {"updated_since": "updatedSince", "deleted_only": "deletedOnly"}

_NAMES: Mapping[RecordKind, Mapping[str, str]] = MappingProxyType(
    {
        # IntakeQ Appointments API, article 204: there is no filter by client id.
        RecordKind.APPOINTMENT: _DAYS
        | _SINCE
        | {"search": "client", "status": "status", "practitioner_email": "practitionerEmail"},
        # IntakeQ Client API, article 251
        RecordKind.PATIENT: {"updated_since": "dateUpdatedStart", "deleted_only": "deletedOnly", "search": "search"},
        # IntakeQ Invoice API, article 385: invoices are cancelled, never deleted.
        RecordKind.INVOICE: _DAYS
        | {
            "updated_since": "lastUpdatedStartDate",
            "client_id": "clientId",
            "status": "status",
            "practitioner_email": "practitionerEmail",
        },
        # IntakeQ Questionnaire API, article 31, and Notes API, article 342
        RecordKind.INTAKE: _DAYS | _SINCE | {"search": "client", "client_id": "clientId"},
        RecordKind.NOTE: _DAYS | _SINCE | {"search": "client", "client_id": "clientId", "status": "status"},
    }
)


def query(kind: RecordKind, wanted: ListFilter) -> dict[str, str]:
    """Write `wanted` as the parameters of the list of `kind`. Raises ValueError for a part that the list has not."""
    parts = {part: value for part, value in asdict(wanted).items() if value not in (None, False)}
    if unknown := sorted(parts.keys() - _NAMES[kind].keys()):
        raise ValueError(f"IntakeQ's list of {kind.value}s cannot be filtered by {', '.join(unknown)}")
    return {_NAMES[kind][part]: _write(value) for part, value in parts.items()}


def _write(value: object) -> str:
    if value is True:
        return "true"
    return value.isoformat() if isinstance(value, date) else str(value)
