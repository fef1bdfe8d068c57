"""Affiliations and practitioners' names by command: single ones, files, wrong rows, and what is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cli.runs import Cli


@pytest.fixture
async def partner(cli: Cli, organization: dict[str, Any]) -> dict[str, Any]:
    added: dict[str, Any] = (await cli("orgs", "add", "Test Partner", "--external-id", "partner-1", "--json")).json
    return added


BETWEEN = ("--org", "practice-7", "--partner", "partner-1")


async def test_a_partner_follows_a_patient_whom_no_vendor_has_named_yet(cli: Cli, partner: dict[str, Any]) -> None:
    added = await cli("affiliations", "add", *BETWEEN, "--email", "client12@example.test", "--json")
    assert added.json == {"organization_id": partner["id"], "patient_is_new": True}
    (listed,) = (await cli("affiliations", "list", "--org", "partner-1", "--json")).json
    assert (listed["status"], listed["affiliation_type"]) == ("active", "case_management")


async def test_an_affiliation_given_again_gets_the_new_terms(cli: Cli, partner: dict[str, Any]) -> None:
    await cli("affiliations", "add", *BETWEEN, "--email", "client12@example.test")
    (before,) = (await cli("affiliations", "list", "--json")).json
    words = ("--patient", before["patient_id"], "--type", "referral_source", "--consent-until", "2031-06-30")
    assert (await cli("affiliations", "add", *BETWEEN, *words)).exit_code == 0
    (after,) = (await cli("affiliations", "list", "--json")).json
    assert after["id"] == before["id"]
    assert (after["affiliation_type"], after["consent_expires_on"]) == ("referral_source", "2031-06-30")


@pytest.mark.parametrize("words", [(), ("--email", "a@example.test", "--client", "1")], ids=["nobody", "two ways"])
async def test_an_affiliation_needs_one_way_to_say_who_is_followed(
    cli: Cli, partner: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert (await cli("affiliations", "add", *BETWEEN, *words)).exit_code == 2


async def test_what_is_wrong_with_an_affiliation_is_told_without_the_patients_data(
    cli: Cli, partner: dict[str, Any]
) -> None:
    ended = await cli("affiliations", "add", *BETWEEN, "--email", "somebody at home")
    assert ended.exit_code == 1
    assert "email" in ended.stderr
    assert "somebody" not in ended.stderr


async def test_an_affiliation_ends_on_its_last_day(cli: Cli, partner: dict[str, Any]) -> None:
    await cli("affiliations", "add", *BETWEEN, "--email", "client12@example.test", "--start", "2026-01-01")
    (before,) = (await cli("affiliations", "list", "--json")).json
    ended = await cli("affiliations", "end", before["id"], "--on", "2026-02-28", "--json")
    assert ended.json == {"id": before["id"], "end_date": "2026-02-28"}
    (after,) = (await cli("affiliations", "list", "--json")).json
    assert (after["status"], after["end_date"]) == ("inactive", "2026-02-28")
    assert (await cli("affiliations", "end", before["id"])).exit_code == 1


async def test_a_file_is_taken_in_once_however_often_it_is_given(
    cli: Cli, partner: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "partners.csv"
    rows = "".join(f"partner-1,client{n}@example.test\n" for n in range(5))
    file.write_text(f"\ufefforganization,email\n{rows}", encoding="utf-8")  # a byte order mark, as spreadsheets write
    first = await cli("affiliations", "import", str(file), "--org", "practice-7", "--json")
    assert first.json == {"added": 5, "updated": 0, "patients_created": 5, "left_out": []}
    again = await cli("affiliations", "import", str(file), "--org", "practice-7", "--json")
    assert again.json == {"added": 0, "updated": 5, "patients_created": 0, "left_out": []}


async def test_wrong_rows_are_left_out_and_told_by_line_while_the_others_are_kept(
    cli: Cli, partner: dict[str, Any]
) -> None:
    given = "email,start_date\nclient1@example.test,2026-01-01\nnobody,\nclient2@example.test,yesterday\n"
    ended = await cli("affiliations", "import", "-", *BETWEEN, given=given)
    assert ended.exit_code == 1
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == ["line 3", "line 4"]
    assert "yesterday" not in ended.stderr
    assert len((await cli("affiliations", "list", "--json")).json) == 1


@pytest.mark.parametrize("content", [b"", b"name,age\nx,1\n", b"email\n\xff\xfe\n"], ids=["empty", "other", "latin"])
async def test_a_file_that_is_none_ends_with_1_and_changes_nothing(
    cli: Cli, partner: dict[str, Any], tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "partners.csv"
    file.write_bytes(content)
    ended = await cli("affiliations", "import", str(file), *BETWEEN)
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: ")
    assert (await cli("affiliations", "list", "--json")).json == []


async def test_affiliations_are_listed_page_by_page(cli: Cli, partner: dict[str, Any]) -> None:
    given = "email\n" + "".join(f"client{n}@example.test\n" for n in range(3))
    await cli("affiliations", "import", "-", *BETWEEN, given=given)
    first = (await cli("affiliations", "list", "--limit", "2", "--json")).json
    rest = (await cli("affiliations", "list", "--after", first[-1]["id"], "--json")).json
    assert len({row["id"] for row in [*first, *rest]}) == 3


async def test_a_practitioner_is_named_and_renamed(
    cli: Cli, connection: dict[str, Any], database: asyncpg.Connection
) -> None:
    words = ("providers", "map", "65f0c0ffee65f0c0ffee0002")
    await cli(*words, "Pat Doe")
    named = (await cli(*words, "Dr. Pat Doe", "--email", "pat.doe@example.test", "--json")).json
    (listed,) = (await cli("providers", "list", "--json")).json
    assert listed["id"] == named["id"]
    assert (listed["provider_name"], listed["email"]) == ("Dr. Pat Doe", "pat.doe@example.test")
    assert "Dr. Pat Doe" in (await cli("providers", "list", "--connection", "1")).stdout
    assert await database.fetchval("SELECT count(*) FROM provider_intakeq_settings") == 1


async def test_a_practitioner_of_several_connections_needs_the_connection(cli: Cli, connection: dict[str, Any]) -> None:
    await cli("connections", "add", "intakeq", "--org", "practice-7", "--api-key", "secret-key-2")
    ended = await cli("providers", "map", "65f0c0ffee65f0c0ffee0002", "Pat Doe")
    assert ended.exit_code == 1
    assert "--connection" in ended.stderr
