from datetime import UTC, datetime
from pathlib import Path

from eventsync.sandbox import QuotaLimits
from sandbox.sandbox_receiver import START_MS, calling, small

DAY_MS = 86_400_000


def day_of(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


async def test_a_wrong_or_missing_key_is_401_and_spends_no_quota() -> None:
    async with calling(small(quota=QuotaLimits(per_minute=1))) as caller:
        for _ in range(3):
            assert (await caller.api("/practitioners", key="wrong")).status == 401
        assert (await caller.api("/practitioners")).status == 200
        assert (await caller.api("/practitioners")).status == 429


async def test_appointments_come_as_bare_arrays_of_a_hundred_latest_first() -> None:
    async with calling(small(appointments=250)) as caller:
        sizes = [len((await caller.api(f"/appointments?page={page}")).json) for page in (1, 2, 3, 4)]
        assert sizes == [100, 100, 50, 0]
        rows = await caller.pages("/appointments")
        starts = [row["StartDate"] for row in rows]
        assert starts == sorted(starts, reverse=True)
        assert len({row["Id"] for row in rows}) == 250
        assert {len(row) for row in rows} == {44}
        assert min(starts) < START_MS - 60 * DAY_MS
        assert max(starts) > START_MS + 60 * DAY_MS


async def test_a_single_appointment_has_49_members_and_a_deleted_or_unknown_one_is_404() -> None:
    async with calling(small()) as caller:
        record_id = (await caller.api("/appointments")).json[0]["Id"]
        assert len((await caller.api(f"/appointments/{record_id}")).json) == 49
        assert (await caller.control("/actions", {"action": "delete", "id": record_id})).status == 200
        assert (await caller.api(f"/appointments/{record_id}")).status == 404
        assert record_id not in [row["Id"] for row in await caller.pages("/appointments")]
        deleted = (await caller.api("/appointments?deletedOnly=true")).json
        assert [row["Id"] for row in deleted] == [record_id]


async def test_deleted_appointments_are_listed_for_ten_days_only(tmp_path: Path) -> None:
    state_path = tmp_path / "practice.json"
    async with calling(small(state_path=state_path)) as caller:
        await caller.control("/actions", {"action": "delete"})
    for days, count in ((9, 1), (11, 0)):
        options = small(state_path=state_path, start_ms=START_MS + days * DAY_MS)
        async with calling(options) as caller:
            assert len((await caller.api("/appointments?deletedOnly=true")).json) == count


async def test_appointments_are_filtered_by_date_status_client_and_practitioner() -> None:
    async with calling(small()) as caller:
        rows = await caller.pages("/appointments")
        day = day_of(START_MS)
        future = await caller.pages(f"/appointments?startDate={day}")
        assert {row["Id"] for row in future} == {row["Id"] for row in rows if day_of(row["StartDate"]) >= day}
        past = await caller.pages(f"/appointments?endDate={day}")
        assert {row["Id"] for row in past} == {row["Id"] for row in rows if day_of(row["StartDate"]) <= day}
        missed = await caller.pages("/appointments?status=Missed")
        assert {row["Status"] for row in missed} == {"Missed"}
        name, email = rows[0]["ClientName"], rows[0]["PractitionerEmail"]
        assert rows[0] in await caller.pages(f"/appointments?client={name[:-1].lower()}")
        assert {row["PractitionerEmail"] for row in await caller.pages(f"/appointments?practitionerEmail={email}")} == {
            email
        }
        assert (await caller.api("/appointments?startDate=tomorrow")).status == 400


async def test_updated_since_works_by_whole_days() -> None:
    async with calling(small()) as caller:
        assert (await caller.api(f"/appointments?updatedSince={day_of(START_MS + DAY_MS)}")).json == []
        before = {row["Id"] for row in await caller.pages(f"/appointments?updatedSince={day_of(START_MS)}")}
        record_id = next(row["Id"] for row in await caller.pages("/appointments") if row["Id"] not in before)
        await caller.control("/actions", {"action": "edit", "id": record_id})
        after = {row["Id"] for row in await caller.pages(f"/appointments?updatedSince={day_of(START_MS)}")}
        assert after == before | {record_id}
        assert (await caller.api("/appointments?updatedSince=2026-09-21T10:00:00")).status == 400


async def test_clients_come_by_name_and_with_profile_in_either_spelling() -> None:
    async with calling(small(clients=130)) as caller:
        plain = await caller.pages("/clients")
        assert len(plain) == 130
        assert set(plain[0]) == {"Name", "Email", "Phone", "ClientNumber"}
        assert isinstance(plain[0]["ClientNumber"], str)
        assert [row["Name"].lower() for row in plain] == sorted(row["Name"].lower() for row in plain)
        for spelling in ("includeProfile", "IncludeProfile"):
            row = (await caller.api(f"/clients?{spelling}=true")).json[0]
            assert isinstance(row["ClientId"], int)
            assert "LastUpdateDate" in row


async def test_one_client_is_found_by_number_and_there_is_no_page_of_its_own() -> None:
    async with calling(small()) as caller:
        (row,) = (await caller.api("/clients?search=1007&includeProfile=true")).json
        assert row["ClientId"] == 1007
        assert row["DateOfBirth"] is None or row["DateOfBirth"] % DAY_MS == 0
        assert len((await caller.api("/clients?search=test client 1")).json) > 1
        page = await caller.api("/clients/1007")
        assert page.status == 404
        assert page.headers["Content-Type"].startswith("text/html")


async def test_changed_and_deleted_clients_are_found_by_day() -> None:
    async with calling(small()) as caller:
        today = day_of(START_MS)
        path = f"/clients?dateUpdatedStart={today}&includeProfile=true"
        before = {row["ClientId"] for row in await caller.pages(path)}
        changed = next(number for number in range(1000, 1030) if number not in before)
        await caller.control("/actions", {"action": "edit_client", "client_id": changed})
        assert {row["ClientId"] for row in await caller.pages(path)} == before | {changed}
        await caller.control("/actions", {"action": "delete_client", "client_id": changed})
        assert changed not in {row["ClientId"] for row in await caller.pages("/clients?includeProfile=true")}
        gone = await caller.pages("/clients?deletedOnly=true&includeProfile=true")
        assert [row["ClientId"] for row in gone] == [changed]


async def test_intakes_are_listed_by_summary_and_the_bare_path_is_405() -> None:
    async with calling(small()) as caller:
        await caller.control("/actions", {"action": "send_intake"})
        submitted = await caller.pages("/intakes/summary")
        everything = await caller.pages("/intakes/summary?all=true")
        assert {row["Status"] for row in submitted} == {"Completed"}
        assert len(everything) > len(submitted)
        assert "@" in submitted[0]["Practitioner"]
        full = (await caller.api(f"/intakes/{submitted[0]['Id']}")).json
        assert full["Questions"][0]["Answer"].startswith("Sample answer")
        assert (await caller.api("/intakes")).status == 405
        assert (await caller.api("/intakes/unknown")).status == 404
        client_id = submitted[0]["ClientId"]
        mine = await caller.pages(f"/intakes/summary?clientId={client_id}")
        assert {row["ClientId"] for row in mine} == {client_id}


async def test_notes_and_invoices_are_listed_filtered_and_read_alone() -> None:
    async with calling(small(appointments=400)) as caller:
        notes = await caller.pages("/notes/summary?status=1")
        assert {row["Status"] for row in notes} == {"locked"}
        assert (await caller.pages("/notes/summary?status=2")) == []
        assert "Questions" in (await caller.api(f"/notes/{notes[0]['Id']}")).json
        invoices = await caller.pages("/invoices")
        assert {row["Status"] for row in invoices} == {"Paid", "Unpaid"}
        unpaid = await caller.pages("/invoices?status=Unpaid")
        assert {row["Status"] for row in unpaid} == {"Unpaid"}
        alone = (await caller.api(f"/invoices/{unpaid[0]['Id']}")).json
        assert alone == unpaid[0]
        await caller.control("/actions", {"action": "pay_invoice", "id": alone["Id"]})
        path = f"/invoices?lastUpdatedStartDate={day_of(START_MS)}"
        assert alone["Id"] in {row["Id"] for row in await caller.pages(path)}
        assert (await caller.api("/invoices/unknown")).status == 404
        assert (await caller.api("/notes/unknown")).status == 404


async def test_settings_practitioners_and_unknown_paths() -> None:
    async with calling(small(practitioners=3)) as caller:
        settings = (await caller.api("/appointments/settings")).json
        assert set(settings) == {"Locations", "Services", "Practitioners"}
        assert [row["Id"] for row in settings["Locations"]] == ["1", "2", "3"]
        assert len((await caller.api("/practitioners")).json) == 3
        assert len((await caller.api("/questionnaires")).json) > 0
        assert (await caller.api("/packages")).status == 404


async def test_paging_shows_a_change_made_between_two_pages() -> None:
    async with calling(small(appointments=150)) as caller:
        first = (await caller.api("/appointments?page=1")).json
        await caller.control("/actions", {"action": "delete", "id": first[0]["Id"]})
        second = (await caller.api("/appointments?page=2")).json
        assert len(second) == 49  # one row slipped from page two to page one unseen
