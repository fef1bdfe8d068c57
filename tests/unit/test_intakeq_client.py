from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, Source, Upsert
from eventsync.domain.connections import Connection, OrganizationId
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.records import Patient, RecordKind
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.listing import Page, RejectedRow
from eventsync.vendors.intakeq import VENDOR
from eventsync.vendors.intakeq.client import IntakeQClient
from eventsync.vendors.intakeq.lists import ListFilter, query
from unit.intakeq_samples import CONTEXT, sample
from unit.vendor_server import NotingBudget, vendor_server

KEY = "invented-key"
BEGAN_MS = 1_800_000_000_000
ORGANIZATION = OrganizationId(CONTEXT.connection_id)
Rows = list[dict[str, Any]]
Respond = Callable[[web.Request], Any]


def connection(base_url: str, api_key: str = KEY) -> Connection:
    return Connection(CONTEXT.connection_id, 1, ORGANIZATION, "intakeq", base_url, api_key)


def entity(kind: RecordKind, external_id: str) -> EntityRef:
    return EntityRef(CONTEXT.connection_id, kind, external_id)


@asynccontextmanager
async def account(respond: Respond, budget: NotingBudget | None = None) -> AsyncIterator[IntakeQClient]:
    """Open a client on a server whose every answer is what `respond` gives: a response, or JSON for one."""

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["X-Auth-Key"] == KEY
        given = respond(request)
        return given if isinstance(given, web.Response) else web.Response(body=orjson.dumps(given))

    async with vendor_server(answer) as url, aiohttp.ClientSession() as session:
        http = VendorHttp(session, budget or NotingBudget(), retry_base_s=0.0)
        yield IntakeQClient(connection(f"{url}/api/v1/"), http)


def appointments(numbers: range) -> Rows:
    row = sample("api_appointment_list")[0]
    return [row | {"Id": f"{number:024x}"} for number in numbers]


def clients(numbers: range) -> Rows:
    row = sample("api_client_profile")[0]
    return [row | {"ClientId": number, "ClientNumber": str(number)} for number in numbers]


def not_found() -> web.Response:
    return web.json_response({"Message": "not found"}, status=404)


def pages(*answers: Any) -> Respond:
    return lambda request: answers[int(request.query["page"]) - 1]


async def appointment_ids(client: IntakeQClient) -> list[str]:
    return [
        change.entity.external_id
        async for page in client.appointments(read_began_ms=BEGAN_MS)
        for change in page.items
        if change.entity.kind is RecordKind.APPOINTMENT
    ]


class TestLists:
    async def test_pages_are_walked_until_one_is_short(self) -> None:
        budget = NotingBudget()
        answers = (appointments(range(100)), appointments(range(100, 200)), appointments(range(200, 203)))
        async with account(pages(*answers), budget) as client:
            assert len(await appointment_ids(client)) == 203
        assert budget.spent == 3

    async def test_a_list_that_ends_with_a_full_page_is_asked_for_one_more(self) -> None:
        budget = NotingBudget()
        async with account(pages(appointments(range(100)), []), budget) as client:
            assert len(await appointment_ids(client)) == 100
        assert budget.spent == 2

    async def test_a_row_that_moved_onto_the_next_page_is_given_once(self) -> None:
        answers = (appointments(range(100)), appointments(range(97, 197)), appointments(range(196, 200)))
        async with account(pages(*answers)) as client:
            ids = await appointment_ids(client)
        assert len(ids) == len(set(ids)) == 200

    async def test_a_list_that_is_not_paged_ends_in_an_error_and_not_in_a_loop(self) -> None:
        budget = NotingBudget()
        async with account(lambda _request: appointments(range(100)), budget) as client:
            with pytest.raises(Transient, match="repeated"):
                await appointment_ids(client)
        assert budget.spent == 2

    @pytest.mark.parametrize("broken", [web.Response, lambda: {"Message": "error"}, lambda: None, lambda: [1]])
    async def test_a_failed_page_never_looks_like_the_last_one(self, broken: Callable[[], Any]) -> None:
        answers = (appointments(range(100)), broken())
        async with account(pages(*answers)) as client:
            walk = client.appointments(read_began_ms=BEGAN_MS)
            assert len((await anext(walk)).items) == 200
            with pytest.raises(Transient):
                await anext(walk)

    async def test_the_limit_of_calls_ends_a_walk_where_it_stands(self) -> None:
        budget = NotingBudget(allowed=1)
        async with account(pages(appointments(range(100)), []), budget) as client:
            with pytest.raises(Transient) as caught:
                await appointment_ids(client)
        assert caught.value.retry_after_s == 12.0

    async def test_one_bad_row_is_set_apart_from_the_rest_of_its_page(self) -> None:
        good, bad, nameless = appointments(range(3))
        rows = [good, bad | {"StartDate": "soon"}, nameless | {"Id": None}]
        async with account(lambda _request: rows) as client:
            (page,) = [page async for page in client.appointments(read_began_ms=BEGAN_MS)]
        assert [change.entity.external_id for change in page.items] == [good["Id"], "1122"]
        assert page.rejected == (RejectedRow(bad["Id"], "invalid_field"), RejectedRow(None, "missing_field"))

    async def test_rows_come_from_the_api_at_the_time_that_the_read_began(self) -> None:
        async with account(lambda _request: appointments(range(1))) as client:
            (page,) = [page async for page in client.appointments(read_began_ms=BEGAN_MS)]
        appointment, mention = page.items
        assert isinstance(appointment, Upsert)
        assert isinstance(mention, Upsert)
        assert (appointment.version.source, appointment.version.read_began_ms) == (Source.API, BEGAN_MS)
        assert (mention.entity.kind, mention.version.authority) == (RecordKind.PATIENT, Authority.MENTION)

    async def test_the_list_of_deleted_ones_is_a_list_of_deletes(self) -> None:
        wanted = ListFilter(deleted_only=True, updated_since=date(2026, 11, 20))
        asked: list[dict[str, str]] = []

        def respond(request: web.Request) -> Rows:
            asked.append(dict(request.query))
            return appointments(range(1)) if request.path.endswith("/appointments") else clients(range(1, 2))

        async with account(respond) as client:
            gone = [c for page in [p async for p in client.appointments(wanted, read_began_ms=1)] for c in page.items]
            people = [c for page in [p async for p in client.clients(wanted, read_began_ms=1)] for c in page.items]
        assert [type(change) for change in gone] == [Delete, Upsert]
        assert [type(change) for change in people] == [Delete]
        assert asked == [
            {"deletedOnly": "true", "updatedSince": "2026-11-20", "page": "1"},
            {"deletedOnly": "true", "dateUpdatedStart": "2026-11-20", "page": "1", "includeProfile": "true"},
        ]

    async def test_invoices_are_listed_whole_and_intakes_and_notes_by_their_summaries(self) -> None:
        async def nothing_rejected(walk: AsyncIterator[Any]) -> list[Any]:
            found = [page async for page in walk]
            assert not any(page.rejected for page in found)
            return [item for page in found for item in page.items]

        def respond(request: web.Request) -> Rows:
            names = {"invoices": sample("invoice_issued")["Invoice"], "intakes": sample("api_intake")}
            assert request.path.startswith("/api/v1/")
            if "intakes" in request.path:
                assert request.query["all"] == "true"
            return [names.get(request.path.split("/")[3], sample("api_note"))]

        async with account(respond) as client:
            (invoice,) = await nothing_rejected(client.invoices(read_began_ms=BEGAN_MS))
            (intake,) = await nothing_rejected(client.intakes())
            (note,) = await nothing_rejected(client.notes())
        assert invoice.entity == entity(RecordKind.INVOICE, "65f0c0ffee65f0c0ffee0021")
        assert intake.entity == entity(RecordKind.INTAKE, "5c1b0000-0000-4000-8000-000000000001")
        assert note.entity == entity(RecordKind.NOTE, "6e2b0000-0000-4000-8000-000000000001")
        assert note.at == datetime(2025, 4, 17, 23, 20, tzinfo=UTC)
        assert note.is_finished

    def test_a_filter_that_a_list_has_not_is_a_mistake_of_ours(self) -> None:
        with pytest.raises(ValueError, match="client_id"):
            query(RecordKind.APPOINTMENT, ListFilter(client_id="1122"))


class TestProfiles:
    async def test_the_other_spelling_is_tried_once_and_kept(self) -> None:
        asked = []

        def respond(request: web.Request) -> Rows:
            asked.append("IncludeProfile" if "IncludeProfile" in request.query else "includeProfile")
            if asked[-1] == "IncludeProfile":
                return clients(range(100)) if request.query["page"] == "1" else clients(range(100, 101))
            return [{"Name": "Test Client 1", "Email": None, "Phone": None, "ClientNumber": "1"}]

        async with account(respond) as client:
            found = [c for page in [p async for p in client.clients(read_began_ms=1)] for c in page.items]
        assert asked == ["includeProfile", "IncludeProfile", "IncludeProfile"]
        assert len(found) == 100  # number 0 is no client

    async def test_clients_without_profiles_end_in_an_error(self) -> None:
        async with account(lambda _request: [{"Name": "Test Client 1", "ClientNumber": "1"}]) as client:
            with pytest.raises(Transient, match="profiles"):
                _ = [page async for page in client.clients(read_began_ms=1)]

    async def test_an_empty_list_is_believed(self) -> None:
        budget = NotingBudget()
        async with account(lambda _request: [], budget) as client:
            assert [page async for page in client.clients(read_began_ms=1)] == [Page(is_last=True)]
        assert budget.spent == 1


class TestRefetch:
    @pytest.mark.parametrize(
        ("kind", "path", "body"),
        [
            (RecordKind.APPOINTMENT, "/api/v1/appointments/", sample("api_appointment_single")),
            (RecordKind.INVOICE, "/api/v1/invoices/", sample("invoice_issued")["Invoice"]),
            (RecordKind.INTAKE, "/api/v1/intakes/", sample("api_intake")),
            (RecordKind.NOTE, "/api/v1/notes/", sample("api_note")),
        ],
    )
    async def test_a_record_is_read_at_its_own_address(self, kind: RecordKind, path: str, body: dict[str, Any]) -> None:
        budget = NotingBudget()
        paths = []

        def respond(request: web.Request) -> Any:
            paths.append(request.path)
            return body

        async with account(respond, budget) as client:
            change = (await client.refetch(entity(kind, body["Id"]), sequence=5, read_began_ms=BEGAN_MS))[0]
        assert paths == [path + body["Id"]]
        assert budget.log == [f"reserve {Purpose.REFETCH.value}", "finish 1"]
        assert isinstance(change, Upsert)
        assert change.entity == entity(kind, body["Id"])
        assert (change.version.source, change.version.read_began_ms) == (Source.API, BEGAN_MS)
        assert change.version.position == body.get("LastModified", 5)

    async def test_a_client_is_searched_by_number_and_only_an_equal_one_counts(self) -> None:
        def respond(request: web.Request) -> Rows:
            assert request.query["search"] == "12"
            return clients(range(112, 113)) + clients(range(12, 13))

        async with account(respond) as client:
            (change,) = await client.refetch(entity(RecordKind.PATIENT, "12"), sequence=1, read_began_ms=BEGAN_MS)
        assert isinstance(change, Upsert)
        assert isinstance(change.content, Patient)
        assert change.entity.external_id == "12"

    @pytest.mark.parametrize("kind", [RecordKind.INTAKE, RecordKind.NOTE])
    async def test_a_missing_document_is_a_delete_at_the_sequence(self, kind: RecordKind) -> None:
        async with account(lambda _request: not_found()) as client:
            (change,) = await client.refetch(entity(kind, "gone"), sequence=9, read_began_ms=BEGAN_MS)
        assert isinstance(change, Delete)
        assert (change.version.position, change.version.deleted, change.content) == (9, True, None)

    @pytest.mark.parametrize(
        ("kind", "respond"),
        [
            (RecordKind.APPOINTMENT, lambda _request: not_found()),
            (RecordKind.INVOICE, lambda _request: not_found()),
            (RecordKind.PATIENT, lambda _request: []),
        ],
    )
    async def test_a_missing_record_with_a_vendors_time_is_an_absence(self, kind: RecordKind, respond: Respond) -> None:
        async with account(respond) as client:
            (change,) = await client.refetch(entity(kind, "gone"), sequence=9, read_began_ms=BEGAN_MS)
        assert isinstance(change, Absence)
        assert change.read_began_ms == BEGAN_MS
        assert (
            change.window_from < datetime(1900, 1, 1, tzinfo=UTC) < datetime(2200, 1, 1, tzinfo=UTC) < change.window_to
        )

    async def test_another_record_than_the_one_asked_for_is_not_believed(self) -> None:
        async with account(lambda _request: sample("api_note")) as client:
            with pytest.raises(Transient, match="another"):
                await client.refetch(entity(RecordKind.NOTE, "other"), sequence=1, read_began_ms=BEGAN_MS)

    @pytest.mark.parametrize("external_id", ["..", "a/b", "a?b", "", "a b", "é"])
    async def test_an_id_that_would_change_the_address_is_never_sent(self, external_id: str) -> None:
        budget = NotingBudget()
        async with account(lambda _request: {}, budget) as client:
            with pytest.raises(Rejected):
                await client.refetch(entity(RecordKind.NOTE, external_id), sequence=1, read_began_ms=BEGAN_MS)
        assert budget.spent == 0

    async def test_a_record_that_cannot_be_understood_is_rejected(self) -> None:
        body = sample("api_appointment_single") | {"StartDate": []}
        async with account(lambda _request: body) as client:
            with pytest.raises(Rejected) as caught:
                await client.refetch(entity(RecordKind.APPOINTMENT, body["Id"]), sequence=1, read_began_ms=BEGAN_MS)
        assert caught.value.reason == "invalid_field"


class TestCredentials:
    async def test_the_check_lists_the_practitioners(self) -> None:
        budget = NotingBudget()

        def respond(request: web.Request) -> Rows:
            assert request.path == "/api/v1/practitioners"
            return [{"Id": "p1", "CompleteName": "Pat Doe", "Email": "pat.doe@example.test"}]

        async with account(respond, budget) as client:
            await client.check_credentials()
            (person,) = await client.practitioners()
        assert budget.log[0] == "reserve check"
        assert (person.external_id, person.name, person.email) == ("p1", "Pat Doe", "pat.doe@example.test")

    @pytest.mark.parametrize(("status", "setting"), [(401, "api_key"), (404, "base_url")])
    async def test_the_check_says_which_setting_to_change(self, status: int, setting: str) -> None:
        async with account(lambda _request: web.json_response({}, status=status)) as client:
            with pytest.raises(Misconfigured, match=setting):
                await client.check_credentials()

    @pytest.mark.parametrize("key", ["", "  ", "a\nb", "clé"])
    async def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(self, key: str) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(Misconfigured, match="api_key"):
                VENDOR.client(connection("http://127.0.0.1:1", key), VendorHttp(session, NotingBudget()))
