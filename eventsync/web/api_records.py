"""Appointments and patients in the management API: an owner's rows, and those of whom a partner follows today.

Every answer with personal data is noted in the access log before it is given, with the ids of the patients in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.records import RecordKind
from eventsync.postgres.access import Access, AccessLog
from eventsync.postgres.database import Database
from eventsync.postgres.explain import explain
from eventsync.postgres.listings import (
    AppointmentCursor,
    AppointmentFilter,
    ListedAppointment,
    ListedPatient,
    Listings,
    PatientCursor,
    PatientFilter,
)
from eventsync.postgres.search import EventSummary
from eventsync.web.api_calls import Call, Endpoint
from eventsync.web.api_errors import ApiError
from eventsync.web.api_paging import Cursors
from eventsync.web.api_parameters import PAGING, choice_parameter, flag_parameter, time_parameter, uuid_parameter

_MOST_APPOINTMENTS = 1_000

_PATIENT_ID = uuid_parameter("id", "The patient's id.", in_path=True)
_APPOINTMENT_FILTERS = (
    uuid_parameter("connection_id", "Only this connection's."),
    uuid_parameter("patient_id", "Only this patient's."),
    time_parameter("since", "Starting at or after."),
    time_parameter("until", "Starting before."),
    flag_parameter("with_deleted", "Those that the vendor deleted as well."),
)
_STATUS = choice_parameter("status", "Only patients who stand so.", ["active", "archived"])


@dataclass(frozen=True, slots=True)
class AppointmentPage:
    """A page of appointments by their start. `next_cursor` is null on the last page."""

    items: tuple[ListedAppointment, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class PatientPage:
    """A page of patients by their names. `next_cursor` is null on the last page."""

    items: tuple[ListedPatient, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A patient's appointments by their start, deleted ones included, and the events that concern the patient.

    Events, oldest first and at most the latest thousand, are given to the owner and admins only. `has_more` tells that
    there are more than a thousand appointments, which `/api/v1/appointments` lists.
    """

    patient: ListedPatient
    appointments: tuple[ListedAppointment, ...]
    has_more: bool
    events: tuple[EventSummary, ...]


class RecordsApi:
    """The endpoints."""

    def __init__(
        self, database: Database, listings: Listings, access_log: AccessLog, keyring: Keyring, clock: Clock
    ) -> None:
        self._database = database
        self._listings = listings
        self._access_log = access_log
        self._appointment_cursors = Cursors(keyring, "appointments", _appointment_position)
        self._patient_cursors = Cursors(keyring, "patients", _patient_position)
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoints."""
        return (
            Endpoint(
                "GET",
                "/api/v1/appointments",
                self.appointments,
                AppointmentPage,
                "List appointments",
                (*_APPOINTMENT_FILTERS, *PAGING),
            ),
            Endpoint("GET", "/api/v1/patients", self.patients, PatientPage, "List patients", (_STATUS, *PAGING)),
            Endpoint(
                "GET",
                "/api/v1/patients/{id}/timeline",
                self.timeline,
                Timeline,
                "Show a patient's appointments and events",
                (_PATIENT_ID,),
                errors={404: "The organization sees no such patient."},
            ),
        )

    async def appointments(self, call: Call) -> AppointmentPage:
        """List a page of the appointments that the organization sees now."""
        wanted = AppointmentFilter(**{each.name: call[each.name] for each in _APPOINTMENT_FILTERS})
        after = self._appointment_cursors.after(call)
        found = await self._listings.appointments(
            call.caller.organization_id, wanted, self._clock(), after=after, limit=call["limit"] + 1
        )
        items, next_cursor = self._appointment_cursors.page(call, found)
        subjects = [
            f"appointment:{item.id}" if item.patient_id is None else f"patient:{item.patient_id}" for item in items
        ]
        await self._note(call, "list_appointments", subjects)
        return AppointmentPage(items, next_cursor)

    async def patients(self, call: Call) -> PatientPage:
        """List a page of the patients that the organization sees now."""
        after = self._patient_cursors.after(call)
        found = await self._listings.patients(
            call.caller.organization_id,
            PatientFilter(status=call["status"]),
            self._clock(),
            after=after,
            limit=call["limit"] + 1,
        )
        items, next_cursor = self._patient_cursors.page(call, found)
        await self._note(call, "list_patients", [f"patient:{item.id}" for item in items])
        return PatientPage(items, next_cursor)

    async def timeline(self, call: Call) -> Timeline:
        """Show one patient that the organization sees now."""
        organization_id, now = call.caller.organization_id, self._clock()
        found = await self._listings.patients(organization_id, PatientFilter(patient_id=call["id"]), now, limit=1)
        if not found:
            raise ApiError(404, "unknown_patient", "the organization sees no such patient")
        (patient,) = found
        wanted = AppointmentFilter(patient_id=patient.id, with_deleted=True)
        appointments = await self._listings.appointments(organization_id, wanted, now, limit=_MOST_APPOINTMENTS + 1)
        events = await self._events(patient) if call.caller.owns(patient.organization_id) else ()
        await self._note(call, "read_timeline", [f"patient:{patient.id}"])
        shown = tuple(appointments[:_MOST_APPOINTMENTS])
        return Timeline(patient, shown, len(appointments) > len(shown), events)

    async def _events(self, patient: ListedPatient) -> tuple[EventSummary, ...]:
        explained = await explain(self._database, RecordKind.PATIENT, str(patient.id), patient.organization_id)
        return explained.events

    async def _note(self, call: Call, action: str, subjects: Collection[str]) -> None:
        if subjects:
            subject = " ".join(dict.fromkeys(subjects))
            await self._access_log.write(Access(self._clock(), call.caller.actor, action, subject))


def _appointment_position(texts: Sequence[str]) -> AppointmentCursor:
    start_time, appointment_id = texts
    return AppointmentCursor(datetime.fromisoformat(start_time), UUID(appointment_id))


def _patient_position(texts: Sequence[str]) -> PatientCursor:
    last_name, first_name, patient_id = texts
    return PatientCursor(last_name, first_name, UUID(patient_id))
