"""Fills a new practice: clients, and appointments from ninety days ago to ninety days ahead with their paperwork."""

from dataclasses import dataclass, replace
from typing import Any

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import OptionsError
from eventsync.sandbox.intakeq.booking import DAY_MS, choose_booking, new_appointment, slot_ms
from eventsync.sandbox.intakeq.invention import invent_client, invent_staff
from eventsync.sandbox.intakeq.paperwork import Paperwork
from eventsync.sandbox.intakeq.practice import Practice, PracticeProfile
from eventsync.sandbox.intakeq.records import Appointment, AppointmentStatus

_SPREAD_DAYS = 90
_YEAR_MS = 365 * DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class PracticeSize:
    """How much to invent."""

    clients: int = 200
    practitioners: int = 5
    appointments: int = 1_000

    def __post_init__(self) -> None:
        if self.clients < 1 or self.practitioners < 1 or self.appointments < 0:
            raise OptionsError("a practice needs at least one client and one practitioner")


def populate(profile: PracticeProfile, size: PracticeSize, now_ms: int) -> Practice:
    """A practice as it stands at `now_ms`; the same arguments give the same practice."""
    practice = Practice(profile)
    invent_staff(practice, size.practitioners, now_ms - _YEAR_MS)
    for _ in range(size.clients):
        created_ms = now_ms - practice.rng.randrange(100 * DAY_MS, _YEAR_MS)
        modified_ms = practice.rng.randrange(created_ms, now_ms)
        practice.put_client(invent_client(practice, created_ms, modified_ms))
    paperwork = Paperwork(practice)
    for _ in range(size.appointments):
        _add_appointment(practice, paperwork, now_ms)
    for _ in range(size.clients // 3):
        past_ms = now_ms - practice.rng.randrange(DAY_MS, _SPREAD_DAYS * DAY_MS)
        action = paperwork.submit_intake if practice.rng.random() < 0.7 else paperwork.send_intake
        action(past_ms, Arguments())
    return practice


def _add_appointment(practice: Practice, paperwork: Paperwork, now_ms: int) -> None:
    rng = practice.rng
    start_ms = slot_ms(practice, now_ms, -_SPREAD_DAYS, _SPREAD_DAYS - 1)
    latest_ms = min(start_ms, now_ms - 60_000)
    created_ms = latest_ms - rng.randrange(DAY_MS, 60 * DAY_MS)
    booking = choose_booking(practice, start_ms, by_client=rng.random() < 0.35)
    a = new_appointment(practice, booking, created_ms, created_ms + rng.randint(20, 1_700))
    changes = _history(practice, a, now_ms)
    if changes:
        changes["modified_ms"] = rng.randrange(a.modified_ms + 1, latest_ms)
        if changes.get("status") is AppointmentStatus.CANCELED:
            changes["cancelled_ms"] = changes["modified_ms"]
    a = replace(a, **changes)
    if start_ms < now_ms - DAY_MS and a.status is AppointmentStatus.CONFIRMED:
        a = _with_paperwork(practice, paperwork, a)
    practice.put_appointment(a)


def _history(practice: Practice, a: Appointment, now_ms: int) -> dict[str, Any]:
    """What became of an appointment by now."""
    chance = practice.rng.random()
    past = a.start_ms < now_ms
    if chance < 0.12:
        return {"status": AppointmentStatus.CANCELED, "cancellation_reason": "client request"}
    if chance < 0.18 and past:
        return {"status": AppointmentStatus.MISSED}
    if chance < 0.20 and a.booked_by_client:
        return {"status": AppointmentStatus.DECLINED}
    if a.booked_by_client and (past or chance < 0.8):
        return {"status": AppointmentStatus.CONFIRMED}
    return {"attendance": "Confirmed"} if chance > 0.9 else {}


def _with_paperwork(practice: Practice, paperwork: Paperwork, a: Appointment) -> Appointment:
    """The note and the invoice of some past sessions; the invoice's number then stands in the appointment."""
    args = {"client_id": a.client_id}
    if practice.rng.random() < 0.4:
        note_id = paperwork.lock_note(a.end_ms, Arguments(args)).record_id
        practice.put_note(replace(practice.notes[note_id], appointment_id=a.id))
    if practice.rng.random() >= 0.3:
        return a
    invoice_id = paperwork.issue_invoice(a.end_ms, Arguments(args)).record_id
    invoice = replace(practice.invoices[invoice_id], appointment_id=a.id)
    practice.put_invoice(invoice)
    if practice.rng.random() < 0.8:
        paperwork.pay_invoice(a.end_ms + 60_000, Arguments({"id": invoice_id}))
    return replace(a, invoice_id=invoice_id, invoice_number=invoice.number, modified_ms=a.end_ms + 1)
