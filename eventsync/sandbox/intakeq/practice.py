"""The practice's records and their bookkeeping: ids, modification times, and who can be picked for what.

Pure: no clock, no network; each change is told the time and counted in `revision`.
"""

import hashlib
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from eventsync.sandbox.changes import ChangeFeed
from eventsync.sandbox.errors import NotPossibleError, OptionsError
from eventsync.sandbox.intakeq.records import (
    Appointment,
    AppointmentStatus,
    Client,
    Intake,
    Invoice,
    InvoiceStatus,
    Location,
    Note,
    Practitioner,
    RecordKind,
    Service,
)
from eventsync.sandbox.pool import Pool
from eventsync.sandbox.vendor import RecordChange

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class PracticeProfile:
    """What stays the same: identity, time zone and quirks.

    `tie_share`: changes that keep the old LastModified, as two changes in one millisecond would.
    `float_share`: appointments whose times are written as 1458526480368.0.
    """

    seed: int
    practice_id: str
    time_zone: str = "America/New_York"
    tie_share: float = 0.0
    float_share: float = 0.1


class Practice:
    """All records by id; deleted appointments and clients stay, marked."""

    def __init__(self, profile: PracticeProfile, serial: int = 0) -> None:
        self.profile = profile
        try:
            self.zone = ZoneInfo(profile.time_zone)
        except ZoneInfoNotFoundError as error:
            raise OptionsError(f"no time zone {profile.time_zone!r} here; is tzdata installed?") from error
        self.rng = random.Random(f"{profile.seed}:actions:{serial}")
        self.serial = serial  # numbers every id; with it a restarted practice never repeats one
        self.revision = 0
        self.changes = ChangeFeed()
        self.practitioners: dict[str, Practitioner] = {}
        self.services: dict[str, Service] = {}
        self.locations: dict[str, Location] = {}
        self.clients: dict[int, Client] = {}
        self.appointments: dict[str, Appointment] = {}
        self.deleted_appointments: dict[str, Appointment] = {}
        self.intakes: dict[str, Intake] = {}
        self.notes: dict[str, Note] = {}
        self.invoices: dict[str, Invoice] = {}
        self.waiting: Pool[str] = Pool()
        self.confirmed: Pool[str] = Pool()
        self.series: Pool[str] = Pool()
        self.series_members: dict[str, list[str]] = {}
        self.client_ids: Pool[int] = Pool()
        self.note_ids: Pool[str] = Pool()
        self.invoice_ids: Pool[str] = Pool()
        self._tag = hashlib.sha256(f"practice {profile.seed}".encode()).hexdigest()[:10]

    def object_id(self, now_ms: int) -> str:
        """A new 24-hex id of MongoDB's kind: seconds, practice, serial number."""
        self.serial += 1
        return f"{now_ms // 1000 & 0xFFFFFFFF:08x}{self._tag}{self.serial & 0xFFFFFF:06x}"

    def guid(self) -> str:
        """A new GUID."""
        self.serial += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.profile.seed}:{self.serial}"))

    def advance_ms(self, previous_ms: int, now_ms: int) -> int:
        """The LastModified after a change: later than before, but for the ties that were asked for."""
        if self.profile.tie_share and self.rng.random() < self.profile.tie_share:
            return previous_ms
        return max(now_ms, previous_ms + 1)

    def put_appointment(self, a: Appointment) -> None:
        """Store a new or changed appointment and keep the pools true."""
        self._count(RecordKind.APPOINTMENT, a.id, a.modified_ms)
        live = a.deleted_ms is None
        if live:
            self.deleted_appointments.pop(a.id, None)
            self.appointments[a.id] = a
        else:
            self.appointments.pop(a.id, None)
            self.deleted_appointments[a.id] = a
        self._keep(self.waiting, a.id, member=live and a.status is AppointmentStatus.WAITING)
        self._keep(self.confirmed, a.id, member=live and a.status is AppointmentStatus.CONFIRMED)
        if a.series is not None:
            members = self.series_members.setdefault(a.series, [])
            if a.id not in members:
                members.append(a.id)
                self.series.add(a.series)

    def _count(self, kind: str, record_id: str, modified_ms: int) -> None:
        self.revision += 1
        self.changes.add(RecordChange(self.revision, kind, record_id, modified_ms))

    @staticmethod
    def _keep(pool: Pool[str], item: str, *, member: bool) -> None:
        if member:
            pool.add(item)
        else:
            pool.discard(item)

    def put_client(self, client: Client) -> None:
        """Store a new or changed client."""
        self._count(RecordKind.CLIENT, str(client.id), client.modified_ms)
        self.clients[client.id] = client
        if client.deleted_ms is None:
            self.client_ids.add(client.id)
        else:
            self.client_ids.discard(client.id)

    def put_intake(self, intake: Intake) -> None:
        """Store a new or changed intake."""
        self._count(RecordKind.INTAKE, intake.id, intake.modified_ms)
        self.intakes[intake.id] = intake

    def put_note(self, note: Note) -> None:
        """Store a new or changed note."""
        self._count(RecordKind.NOTE, note.id, note.modified_ms)
        self.notes[note.id] = note
        self.note_ids.add(note.id)

    def put_invoice(self, invoice: Invoice) -> None:
        """Store a new or changed invoice."""
        self._count(RecordKind.INVOICE, invoice.id, invoice.modified_ms)
        self.invoices[invoice.id] = invoice
        self.invoice_ids.add(invoice.id)

    def appointment(self, appointment_id: str) -> Appointment:
        """A live appointment; raises NotPossibleError when there is none."""
        found = self.appointments.get(appointment_id)
        if found is None:
            raise NotPossibleError(f"no live appointment {appointment_id!r}")
        return found

    def client_or_any(self, client_id: int | None) -> Client:
        """The client of that number, or one by chance."""
        chosen = self.client_ids.pick(self.rng) if client_id is None else client_id
        client = None if chosen is None else self.clients.get(chosen)
        if client is None or client.deleted_ms is not None:
            raise NotPossibleError(f"no client {client_id}")
        return client

    def one_of(self, records: dict[K, V], key: K | None) -> V:
        """The record of that key, or one by chance; for the short lists of practitioners and their like."""
        if key is None:
            return self.rng.choice(list(records.values()))
        if key not in records:
            raise NotPossibleError(f"no record {key!r}")
        return records[key]

    def to_state(self) -> dict[str, Any]:
        """All records as lists, for saving."""
        return {
            "profile": self.profile,
            "serial": self.serial,
            "practitioners": list(self.practitioners.values()),
            "services": list(self.services.values()),
            "locations": list(self.locations.values()),
            "clients": list(self.clients.values()),
            "appointments": [*self.appointments.values(), *self.deleted_appointments.values()],
            "intakes": list(self.intakes.values()),
            "notes": list(self.notes.values()),
            "invoices": list(self.invoices.values()),
        }


def practice_from_state(state: dict[str, Any]) -> Practice:
    """The practice that `to_state` wrote, after a JSON round trip; raises KeyError or TypeError on anything else."""
    practice = Practice(PracticeProfile(**state["profile"]), state["serial"])
    practice.practitioners = _by_id(Practitioner(**row) for row in state["practitioners"])
    practice.services = _by_id(Service(**row) for row in state["services"])
    practice.locations = _by_id(Location(**row) for row in state["locations"])
    for row in state["clients"]:
        practice.put_client(Client(**row))
    for row in state["appointments"]:
        a = Appointment(**row)
        practice.put_appointment(replace(a, status=AppointmentStatus(a.status)))
    for row in state["intakes"]:
        practice.put_intake(Intake(**row))
    for row in state["notes"]:
        practice.put_note(Note(**row))
    for row in state["invoices"]:
        invoice = Invoice(**row)
        practice.put_invoice(replace(invoice, status=InvoiceStatus(invoice.status)))
    return practice


def _by_id(records: Iterable[Any]) -> dict[str, Any]:
    return {record.id: record for record in records}
