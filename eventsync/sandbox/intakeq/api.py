"""The documented IntakeQ API under /api/v1: reading only, with its quirks.

Sources: IntakeQ Appointments API (article 204), Client API (251), Questionnaire API (31), Notes API (342), Invoice API
(385). Authentication, quota and faults come before, in the gate.
"""

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from aiohttp import web

from eventsync.sandbox.gate import html_page
from eventsync.sandbox.intakeq import document_forms as forms
from eventsync.sandbox.intakeq.appointment_forms import list_form, single_form
from eventsync.sandbox.intakeq.listing import DELETED_KEPT_MS, ListingCache, Query, between, mentions
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import Appointment, Client, Intake, Invoice, Note


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _missing(what: str) -> web.Response:
    return _json({"Message": f"{what} not found"}, 404)


class IntakeQApi:
    """Handlers over one practice."""

    def __init__(self, practice: Practice, now_ms: Callable[[], int]) -> None:
        self._practice = practice
        self._now_ms = now_ms
        self._cache = ListingCache()

    def add_routes(self, app: web.Application) -> None:
        """Register the routes; what is not documented gets an HTML page, as on the real host."""
        app.router.add_get("/appointments", self.list_appointments)
        app.router.add_get("/appointments/settings", self.settings)
        app.router.add_get("/appointments/{id}", self.appointment)
        app.router.add_get("/clients", self.list_clients)
        app.router.add_get("/practitioners", self.list_practitioners)
        app.router.add_get("/questionnaires", self.list_questionnaires)
        app.router.add_get("/intakes/summary", self.list_intakes)
        app.router.add_get("/intakes/{id}", self.intake)
        app.router.add_get("/notes/summary", self.list_notes)
        app.router.add_get("/notes/{id}", self.note)
        app.router.add_get("/invoices", self.list_invoices)
        app.router.add_get("/invoices/{id}", self.invoice)
        app.router.add_get("/intakes", _post_only)
        app.router.add_route("*", "/{tail:.*}", _no_such_page)

    async def list_appointments(self, request: web.Request) -> web.Response:
        """By appointment date, latest first; deleted ones only with `deletedOnly=true`, for ten days."""
        query = Query(request.query)
        rows = self._rows("appointments", query, self._appointment_filter, self._appointments(query))
        return _json([list_form(a, self._practice.zone) for a in query.page_of(rows)])

    def _appointments(self, query: Query) -> Callable[[], list[Appointment]]:
        def make() -> list[Appointment]:
            kept: Iterable[Appointment] = self._practice.appointments.values()
            if query.flag("deletedOnly"):
                since_ms = self._now_ms() - DELETED_KEPT_MS
                gone = self._practice.deleted_appointments.values()
                kept = [a for a in gone if (a.deleted_ms or 0) >= since_ms]
            return sorted(kept, key=lambda a: (a.start_ms, a.id), reverse=True)

        return make

    def _appointment_filter(self, query: Query) -> Callable[[Appointment], bool]:
        client, status = query.text("client"), query.text("status")
        email = query.text("practitionerEmail")
        first_ms, last_ms = query.day_ms("startDate"), query.day_ms("endDate", end=True)
        since_ms = query.day_ms("updatedSince")
        return lambda a: (
            between(a.start_ms, first_ms, last_ms)
            and between(a.modified_ms, since_ms, None)
            and (status is None or a.status == status)
            and (email is None or a.practitioner_email == email)
            and mentions(client, a.client_name, a.client_email)
        )

    def _rows(
        self, name: str, query: Query, make_filter: Callable[[Query], Callable[[Any], bool]], make: Any
    ) -> list[Any]:
        fits = make_filter(query)
        # ten days pass while nothing changes: lists of deleted rows are not kept for long
        fresh = self._now_ms() // 1000 if query.flag("deletedOnly") else 0
        return self._cache.get(
            self._practice.revision, (name, query.key(), fresh), lambda: [row for row in make() if fits(row)]
        )

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
        rows = self._rows("clients", query, self._client_filter, self._clients(query))
        form = forms.client_profile if query.flag("includeProfile") else forms.client_summary
        return _json([form(client) for client in query.page_of(rows)])

    def _clients(self, query: Query) -> Callable[[], list[Client]]:
        deleted, since_ms = query.flag("deletedOnly"), self._now_ms() - DELETED_KEPT_MS

        def listed(client: Client) -> bool:
            if client.deleted_ms is None:
                return not deleted
            return deleted and client.deleted_ms >= since_ms

        clients = self._practice.clients
        return lambda: sorted(filter(listed, clients.values()), key=lambda c: (c.name.lower(), c.id))

    def _client_filter(self, query: Query) -> Callable[[Client], bool]:
        search, external_id = query.text("search"), query.text("externalClientId")
        created = query.day_ms("dateCreatedStart"), query.day_ms("dateCreatedEnd", end=True)
        updated = query.day_ms("dateUpdatedStart"), query.day_ms("dateUpdatedEnd", end=True)
        number = int(search) if search is not None and search.isdecimal() else None
        return lambda c: (
            between(c.created_ms, *created)
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
        rows = self._rows("intakes", query, self._intake_filter, self._newest_intakes)
        practitioners = self._practice.practitioners
        page = query.page_of(rows)
        return _json([forms.intake_summary(x, practitioners[x.practitioner_id]) for x in page])

    def _newest_intakes(self) -> list[Intake]:
        return sorted(self._practice.intakes.values(), key=lambda x: (x.created_ms, x.id), reverse=True)

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
        rows = self._rows("notes", query, self._note_filter, self._newest_notes)
        practitioners = self._practice.practitioners
        page = query.page_of(rows)
        return _json([forms.note_summary(x, practitioners[x.practitioner_id]) for x in page])

    def _newest_notes(self) -> list[Note]:
        return sorted(self._practice.notes.values(), key=lambda x: (x.date_ms, x.id), reverse=True)

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
        rows = self._rows("invoices", query, self._invoice_filter, self._newest_invoices)
        return _json([forms.invoice_form(x) for x in query.page_of(rows)])

    def _newest_invoices(self) -> list[Invoice]:
        return sorted(self._practice.invoices.values(), key=lambda x: (x.issued_ms, x.id), reverse=True)

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


async def _no_such_page(_request: web.Request) -> web.Response:
    """What `GET /clients/{id}` and other unknown paths give: a page for people."""
    return html_page(404, "Page not found")


async def _post_only(_request: web.Request) -> web.Response:
    """The list of intakes is at /intakes/summary; this path only takes office-use answers."""
    raise web.HTTPMethodNotAllowed("GET", ["POST"])
