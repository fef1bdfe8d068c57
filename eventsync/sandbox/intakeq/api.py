"""The documented IntakeQ API under /api/v1: reading only, with its quirks.

Sources: IntakeQ Appointments API (article 204), Client API (251), Questionnaire API (31), Notes API (342), Invoice API
(385). Authentication, quota and faults come before, in the gate.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from eventsync.sandbox.intakeq import document_forms as forms
from eventsync.sandbox.intakeq.appointment_forms import list_form, single_form
from eventsync.sandbox.intakeq.listing import DELETED_KEPT_MS, Query, between, mentions
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import (
    Appointment,
    Client,
    Intake,
    Invoice,
    Note,
    RecordKind,
)
from eventsync.sandbox.intakeq.sorted_rows import ListingCache, R, SortedRows, Source
from eventsync.sandbox.spoiling import html_page


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _missing(what: str) -> web.Response:
    return _json({"Message": f"{what} not found"}, 404)


class IntakeQApi:
    """Handlers over one practice."""

    def __init__(self, practice: Practice, now_ms: Callable[[], int]) -> None:
        self._practice = practice
        self._now_ms = now_ms
        self._cache = ListingCache(practice.changes.between)

    def add_routes(self, app: web.Application) -> None:
        """Register the routes; what is not documented gets an HTML page, as on the real host."""
        for path, handler in ROUTES.items():
            app.router.add_get(path, partial(handler, self))
        app.router.add_get("/intakes", _post_only)
        app.router.add_route("*", "/{tail:.*}", _no_such_page)

    async def list_appointments(self, request: web.Request) -> web.Response:
        """By appointment date, latest first; deleted ones only with `deletedOnly=true`, for ten days."""
        query = Query(request.query)
        practice = self._practice
        records = practice.deleted_appointments if query.flag("deletedOnly") else practice.appointments
        source = Source(RecordKind.APPOINTMENT, records, lambda a: (a.start_ms, a.id))
        rows = self._rows(query, source, self._appointment_filter(query))
        return _json([list_form(a, practice.zone) for a in query.page_of(rows, from_last=True)])

    def _appointment_filter(self, query: Query) -> Callable[[Appointment], bool]:
        gone_since_ms = self._now_ms() - DELETED_KEPT_MS
        client, status = query.text("client"), query.text("status")
        email = query.text("practitionerEmail")
        first_ms, last_ms = query.day_ms("startDate"), query.day_ms("endDate", end=True)
        since_ms = query.day_ms("updatedSince")
        return lambda a: (
            (a.deleted_ms is None or a.deleted_ms >= gone_since_ms)
            and between(a.start_ms, first_ms, last_ms)
            and between(a.modified_ms, since_ms, None)
            and (status is None or a.status == status)
            and (email is None or a.practitioner_email == email)
            and mentions(client, a.client_name, a.client_email)
        )

    def _rows(self, query: Query, source: Source[R], fits: Callable[[R], bool]) -> Sequence[R]:
        # ten days pass while nothing changes: lists of deleted rows are not kept for long
        fresh = self._now_ms() // 1000 if query.flag("deletedOnly") else 0
        key = (source.kind, query.key(), fresh)
        return self._cache.get(self._practice.revision, key, lambda: SortedRows(source, fits))

    async def appointment(self, request: web.Request) -> web.Response:
        """One appointment with its 49 members; 404 for a deleted one."""
        found = self._practice.appointments.get(request.match_info["id"])
        return _missing("Appointment") if found is None else _json(single_form(found, self._practice.zone))

    async def settings(self, _request: web.Request) -> web.Response:
        """Locations, services and practitioners."""
        practice = self._practice
        value = {
            "Locations": [forms.location_form(x) for x in practice.locations.values()],
            "Services": [forms.service_form(x) for x in practice.services.values()],
            "Practitioners": [forms.practitioner_form(x) for x in practice.practitioners.values()],
        }
        return _json(value)

    async def list_clients(self, request: web.Request) -> web.Response:
        """By name; `search` is part of a name or e-mail, or a client's number."""
        query = Query(request.query)
        source = Source(RecordKind.CLIENT, self._practice.clients, lambda c: ((c.name or "").lower(), c.id), int)
        rows = self._rows(query, source, self._client_filter(query))
        form = forms.client_profile if query.flag("includeProfile") else forms.client_summary
        return _json([form(client) for client in query.page_of(rows)])

    def _client_filter(self, query: Query) -> Callable[[Client], bool]:
        deleted, gone_since_ms = query.flag("deletedOnly"), self._now_ms() - DELETED_KEPT_MS
        search, external_id = query.text("search"), query.text("externalClientId")
        created = query.day_ms("dateCreatedStart"), query.day_ms("dateCreatedEnd", end=True)
        updated = query.day_ms("dateUpdatedStart"), query.day_ms("dateUpdatedEnd", end=True)
        number = int(search) if search is not None and search.isdecimal() else None
        return lambda c: (
            (c.deleted_ms is not None and c.deleted_ms >= gone_since_ms if deleted else c.deleted_ms is None)
            and between(c.created_ms, *created)
            and between(c.modified_ms, *updated)
            and (external_id is None or c.external_id == external_id)
            and (c.id == number if number is not None else mentions(search, c.name, c.email))
        )

    async def list_practitioners(self, _request: web.Request) -> web.Response:
        """All practitioners."""
        return _json([forms.practitioner_form(x) for x in self._practice.practitioners.values()])

    async def list_questionnaires(self, _request: web.Request) -> web.Response:
        """The questionnaires that were ever sent."""
        names = {x.questionnaire_id: x.questionnaire_name for x in self._practice.intakes.values()}
        rows = [{"Id": key, "Name": names[key], "Archived": False, "Anonymous": False} for key in sorted(names)]
        return _json(rows)

    async def list_intakes(self, request: web.Request) -> web.Response:
        """Newest first; only submitted ones unless `all=true`."""
        query = Query(request.query)
        source = Source(RecordKind.INTAKE, self._practice.intakes, lambda x: (x.created_ms, x.id))
        rows = self._rows(query, source, self._intake_filter(query))
        practitioners = self._practice.practitioners
        page = query.page_of(rows, from_last=True)
        return _json([forms.intake_summary(x, practitioners[x.practitioner_id]) for x in page])

    def _intake_filter(self, query: Query) -> Callable[[Intake], bool]:
        client, client_id, unsent = query.text("client"), query.whole("clientId"), query.flag("all")
        first_ms, last_ms = query.day_ms("startDate"), query.day_ms("endDate", end=True)
        since_ms, deleted = query.day_ms("updatedSince"), query.flag("deletedOnly")
        return lambda x: (
            not deleted
            and (unsent or x.submitted_ms is not None)
            and between(x.submitted_ms or x.created_ms, first_ms, last_ms)
            and between(x.modified_ms, since_ms, None)
            and (client_id is None or x.client_id == client_id)
            and mentions(client, x.client_name, x.client_email)
        )

    async def intake(self, request: web.Request) -> web.Response:
        """One intake with its questions."""
        found = self._practice.intakes.get(request.match_info["id"])
        if found is None:
            return _missing("Intake")
        return _json(forms.intake_full(found, self._practice.practitioners[found.practitioner_id]))

    async def list_notes(self, request: web.Request) -> web.Response:
        """Newest first; `status` 1 locked, 2 unlocked."""
        query = Query(request.query)
        source = Source(RecordKind.NOTE, self._practice.notes, lambda x: (x.date_ms, x.id))
        rows = self._rows(query, source, self._note_filter(query))
        practitioners = self._practice.practitioners
        page = query.page_of(rows, from_last=True)
        return _json([forms.note_summary(x, practitioners[x.practitioner_id]) for x in page])

    def _note_filter(self, query: Query) -> Callable[[Note], bool]:
        client, client_id, status = query.text("client"), query.whole("clientId"), query.whole("status")
        first_ms, last_ms = query.day_ms("startDate"), query.day_ms("endDate", end=True)
        since_ms, deleted = query.day_ms("updatedSince"), query.flag("deletedOnly")
        return lambda x: (
            not deleted
            and (status is None or x.locked == (status == 1))
            and between(x.date_ms, first_ms, last_ms)
            and between(x.modified_ms, since_ms, None)
            and (client_id is None or x.client_id == client_id)
            and mentions(client, x.client_name, x.client_email)
        )

    async def note(self, request: web.Request) -> web.Response:
        """One note with its questions."""
        found = self._practice.notes.get(request.match_info["id"])
        if found is None:
            return _missing("Note")
        return _json(forms.note_full(found, self._practice.practitioners[found.practitioner_id]))

    async def list_invoices(self, request: web.Request) -> web.Response:
        """Newest first."""
        query = Query(request.query)
        source = Source(RecordKind.INVOICE, self._practice.invoices, lambda x: (x.issued_ms, x.id))
        rows = self._rows(query, source, self._invoice_filter(query))
        return _json([forms.invoice_form(x) for x in query.page_of(rows, from_last=True)])

    def _invoice_filter(self, query: Query) -> Callable[[Invoice], bool]:
        client_id, status, number = query.whole("clientId"), query.text("status"), query.whole("number")
        first_ms, last_ms = query.day_ms("startDate"), query.day_ms("endDate", end=True)
        updated = query.day_ms("lastUpdatedStartDate"), query.day_ms("lastUpdatedEndDate", end=True)
        return lambda x: (
            between(x.issued_ms, first_ms, last_ms)
            and between(x.modified_ms, *updated)
            and (client_id is None or x.client_id == client_id)
            and (status is None or x.status == status)
            and (number is None or x.number == number)
        )

    async def invoice(self, request: web.Request) -> web.Response:
        """One invoice."""
        found = self._practice.invoices.get(request.match_info["id"])
        return _missing("Invoice") if found is None else _json(forms.invoice_form(found))


ROUTES: Mapping[str, Callable[[IntakeQApi, web.Request], Awaitable[web.StreamResponse]]] = {
    "/appointments": IntakeQApi.list_appointments,
    "/appointments/settings": IntakeQApi.settings,
    "/appointments/{id}": IntakeQApi.appointment,
    "/clients": IntakeQApi.list_clients,
    "/practitioners": IntakeQApi.list_practitioners,
    "/questionnaires": IntakeQApi.list_questionnaires,
    "/intakes/summary": IntakeQApi.list_intakes,
    "/intakes/{id}": IntakeQApi.intake,
    "/notes/summary": IntakeQApi.list_notes,
    "/notes/{id}": IntakeQApi.note,
    "/invoices": IntakeQApi.list_invoices,
    "/invoices/{id}": IntakeQApi.invoice,
}


async def _no_such_page(_request: web.Request) -> web.Response:
    """What `GET /clients/{id}` and other unknown paths give: a page for people."""
    return html_page(404, "Page not found")


async def _post_only(_request: web.Request) -> web.Response:
    """The list of intakes is at /intakes/summary; this path only takes office-use answers."""
    raise web.HTTPMethodNotAllowed("GET", ["POST"])
