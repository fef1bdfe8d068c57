"""Records as rows: how each kind's state is read from its table and written to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.changes import EntityRef, Version
from eventsync.domain.merging import Held, RecordState
from eventsync.domain.records import (
    Appointment,
    AppointmentExtras,
    AppointmentStatus,
    Content,
    Document,
    LocationType,
    Patient,
    RecordKind,
    field_names,
    patient_id_of,
    record_id_of,
)
from eventsync.postgres.statements import load_statements

Row = Mapping[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TableSql:
    """The three statements by which a kind of record is loaded and written."""

    load: str
    insert: str
    update: str


@dataclass(frozen=True, slots=True)
class PatientSql(TableSql):
    """A patient is drawn from its identities after they were written."""

    project: str


PATIENTS = load_statements(PatientSql, "patients.sql")
APPOINTMENTS = load_statements(TableSql, "appointments.sql")
DOCUMENTS = load_statements(TableSql, "documents.sql")


class RecordTable(Protocol):
    """One table's way to hold record states."""

    @property
    def sql(self) -> TableSql:
        """The table's statements."""

    @property
    def kinds(self) -> frozenset[RecordKind]:
        """The kinds whose rows it holds."""

    @property
    def projection(self) -> str | None:
        """The statement that draws what people see from changed rows (keys, time), where that is another table."""

    def keys(self, refs: Sequence[EntityRef]) -> tuple[list[Any], ...]:
        """Write the keys of `refs` as the array arguments of `load`."""

    def ref(self, row: Row) -> EntityRef:
        """Tell whose row this is."""

    def held(self, row: Row) -> tuple[Held[Content | None], Held[AppointmentExtras] | None]:
        """Read the versioned groups of a row."""

    def columns(self, ref: EntityRef, state: RecordState) -> dict[str, Any]:
        """Write the columns that only this table has."""


class AppointmentTable:
    """`appointments`."""

    sql: TableSql = APPOINTMENTS
    projection = None
    kinds = frozenset({RecordKind.APPOINTMENT})

    def keys(self, refs: Sequence[EntityRef]) -> tuple[list[Any], ...]:
        """Write the keys of `refs` as the array arguments of `load`."""
        return [ref.connection_id for ref in refs], [ref.external_id for ref in refs]

    def ref(self, row: Row) -> EntityRef:
        """Tell whose row this is."""
        return EntityRef(row["connection_id"], RecordKind.APPOINTMENT, row["external_id"])

    def held(self, row: Row) -> tuple[Held[Content | None], Held[AppointmentExtras] | None]:
        """Read the versioned groups of a row."""
        plain = {name: row[name] for name in field_names(Appointment)}
        plain["status"] = AppointmentStatus(plain["status"])
        plain["details"] = orjson.loads(plain["details"])
        if plain["location_type"] is not None:
            plain["location_type"] = LocationType(plain["location_type"])
        core: Held[Content | None] = Held(Version.from_bytes(row["version"]), Appointment(**plain))
        return core, self._extras(row)

    def columns(self, ref: EntityRef, state: RecordState) -> dict[str, Any]:
        """Write the columns that only this table has."""
        content = _content(state, Appointment)
        columns = {name: getattr(content, name) for name in field_names(Appointment)}
        columns["id"] = record_id_of(ref.connection_id, RecordKind.APPOINTMENT, ref.external_id)
        columns["patient_id"] = _patient_id(ref, content.client_external_id)
        if state.extras is not None:
            extras = state.extras.content
            columns |= {name: getattr(extras, name) for name in field_names(AppointmentExtras)}
            columns["extras_version"] = state.extras.version.to_bytes()
        return columns

    @staticmethod
    def _extras(row: Row) -> Held[AppointmentExtras] | None:
        if row["extras_version"] is None:
            return None
        extras = AppointmentExtras(
            package_external_id=row["package_external_id"],
            package_name=row["package_name"],
            procedures=tuple(orjson.loads(row["procedures"])),
        )
        return Held(Version.from_bytes(row["extras_version"]), extras)


class PatientTable:
    """`patient_identities`."""

    sql: TableSql = PATIENTS
    projection: str | None = PATIENTS.project
    kinds = frozenset({RecordKind.PATIENT})

    def keys(self, refs: Sequence[EntityRef]) -> tuple[list[Any], ...]:
        """Write the keys of `refs` as the array arguments of `load`."""
        return [ref.connection_id for ref in refs], [ref.external_id for ref in refs]

    def ref(self, row: Row) -> EntityRef:
        """Tell whose row this is."""
        return EntityRef(row["connection_id"], RecordKind.PATIENT, row["external_id"])

    def held(self, row: Row) -> tuple[Held[Content | None], Held[AppointmentExtras] | None]:
        """Read the versioned groups of a row."""
        content = Patient(**{name: row[name] for name in field_names(Patient)})
        return Held(Version.from_bytes(row["version"]), content), None

    def columns(self, ref: EntityRef, state: RecordState) -> dict[str, Any]:
        """Write the columns that only this table has."""
        content = _content(state, Patient)
        columns = {name: getattr(content, name) for name in field_names(Patient)}
        return columns | {"patient_id": patient_id_of(ref.connection_id, ref.external_id)}


class DocumentTable:
    """`documents`; the content is sealed."""

    sql: TableSql = DOCUMENTS
    projection = None
    kinds = frozenset(kind for kind in RecordKind if kind.is_document)

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def keys(self, refs: Sequence[EntityRef]) -> tuple[list[Any], ...]:
        """Write the keys of `refs` as the array arguments of `load`."""
        kinds = [ref.kind.value for ref in refs]
        return [ref.connection_id for ref in refs], kinds, [ref.external_id for ref in refs]

    def ref(self, row: Row) -> EntityRef:
        """Tell whose row this is."""
        return EntityRef(row["connection_id"], RecordKind(row["kind"]), row["external_id"])

    def held(self, row: Row) -> tuple[Held[Content | None], Held[AppointmentExtras] | None]:
        """Read the versioned groups of a row."""
        version = Version.from_bytes(row["version"])
        if row["content_sealed"] is None:
            return Held(version, None), None
        content = Document(
            status=row["status"],
            title=row["title"],
            client_external_id=row["client_external_id"],
            document_time=row["document_time"],
            content=self._keyring.open(row["content_sealed"], _sealing_context(self.ref(row))),
        )
        return Held(version, content), None

    def columns(self, ref: EntityRef, state: RecordState) -> dict[str, Any]:
        """Write the columns that only this table has."""
        columns: dict[str, Any] = {"id": record_id_of(*_parts(ref)), "kind": ref.kind.value}
        if state.core is None or state.core.content is None:
            return columns
        content = _content(state, Document)
        return columns | {
            "status": content.status,
            "title": content.title,
            "client_external_id": content.client_external_id,
            "patient_id": _patient_id(ref, content.client_external_id),
            "document_time": content.document_time,
            "content_sealed": self._keyring.seal(content.content, _sealing_context(ref)),
        }


def shared_columns(ref: EntityRef, state: RecordState) -> dict[str, Any]:
    """Write the columns that every table of records has."""
    if state.core is None:
        raise ValueError("a row needs a version")
    version = state.core.version
    return {
        "connection_id": ref.connection_id,
        "external_id": ref.external_id,
        "version": version.to_bytes(),
        "source_version": moment(version.position),
        "content_hash": version.content_hash,
        "seen_at": moment(state.seen_ms) if state.seen_ms else None,
        "deleted_at": None if state.deleted_at_ms is None else moment(state.deleted_at_ms),
    }


def moment(unix_ms: int) -> datetime:
    """Turn Unix milliseconds into an aware time."""
    return _EPOCH + timedelta(milliseconds=unix_ms)


def milliseconds(at: datetime) -> int:
    """Turn an aware time into Unix milliseconds."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _content(state: RecordState, kind: type[Any]) -> Any:
    content = None if state.core is None else state.core.content
    if not isinstance(content, kind):
        raise TypeError(f"a row of this table needs the content of a {kind.__name__}")
    return content


def _patient_id(ref: EntityRef, client_external_id: str | None) -> UUID | None:
    return None if client_external_id is None else patient_id_of(ref.connection_id, client_external_id)


def _parts(ref: EntityRef) -> tuple[Any, RecordKind, str]:
    return ref.connection_id, ref.kind, ref.external_id


def _sealing_context(ref: EntityRef) -> str:
    return f"document:{ref.connection_id}:{ref.kind.value}:{ref.external_id}"
