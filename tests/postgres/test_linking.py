"""Linking clients to patients that an organization already knew: by one rule, undoable, never across a border."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import OrganizationId
from eventsync.postgres.database import Database
from eventsync.postgres.linking import LinkReport
from postgres.linked_practice import NOW, Practice, insert_organization, open_practice

NOTHING = LinkReport(linked=0, ended=0, ambiguous=0)


@pytest.fixture
async def practice(database: asyncpg.Connection, pool: Database, keyring: Keyring) -> Practice:
    return await open_practice(database, pool, keyring)


async def test_a_client_and_a_local_patient_with_one_email_become_one(practice: Practice) -> None:
    local = await practice.local_patient(" Test.12@Example.test ")
    derived = await practice.client("12", "test.12@example.TEST", phone="+1 555 0100")
    await practice.appointment("a1", "12")
    await practice.invoice("i1", "12")
    assert await practice.owners() == {derived}
    assert await practice.link() == LinkReport(linked=1, ended=0, ambiguous=0)
    assert await practice.owners() == {local}
    seen = await practice.patient(local)
    assert (seen["status"], seen["origin"], seen["intakeq_client_id"]) == ("active", "local", "12")
    assert (seen["first_name"], seen["phone"]) == ("Vendor", "+1 555 0100")
    assert (await practice.patient(derived))["status"] == "linked"
    assert await practice.link() == NOTHING


async def test_what_comes_after_the_link_belongs_to_the_local_patient(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.appointment("a1", "12")
    await practice.invoice("i1", "12")
    await practice.client("12", "a@example.test", phone="+1 555 0199")
    assert await practice.owners() == {local}
    assert (await practice.patient(local))["phone"] == "+1 555 0199"


@pytest.mark.parametrize("email", [None, "", "  "])
async def test_nobody_is_linked_without_an_email(practice: Practice, email: str | None) -> None:
    await practice.local_patient(email)
    await practice.client("12", email)
    assert await practice.link() == NOTHING


async def test_two_clients_with_one_email_are_ambiguous_also_over_two_connections(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test", connection=0)
    await practice.client("12", "a@example.test", connection=1)
    assert await practice.link() == LinkReport(linked=0, ended=0, ambiguous=1)


async def test_two_local_patients_with_one_email_are_ambiguous(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.local_patient("A@example.test")
    await practice.client("12", "a@example.test")
    assert await practice.link() == LinkReport(linked=0, ended=0, ambiguous=1)


async def test_clients_are_never_joined_to_each_other(practice: Practice) -> None:
    first = await practice.client("12", "a@example.test", connection=0)
    second = await practice.client("12", "a@example.test", connection=1)
    assert await practice.link() == NOTHING
    assert first != second
    assert [(await practice.patient(entry))["status"] for entry in (first, second)] == ["active", "active"]


async def test_organizations_never_meet(
    practice: Practice, database: asyncpg.Connection, pool: Database, keyring: Keyring
) -> None:
    other = await open_practice(database, pool, keyring)
    await other.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    assert await practice.link() == NOTHING


async def test_an_ambiguity_that_appears_later_ends_the_link_and_gives_everything_back(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    derived = await practice.client("12", "a@example.test")
    await practice.appointment("a1", "12")
    await practice.link()
    await practice.client("13", "a@example.test")
    assert await practice.link() == LinkReport(linked=0, ended=1, ambiguous=1)
    (link,) = await practice.links.links(practice.organization_id)
    assert link.ended_because == "ambiguous"
    assert await practice.owners() == {derived}
    assert (await practice.patient(derived))["status"] == "active"
    assert (await practice.patient(derived))["intakeq_client_id"] == "12"
    seen = await practice.patient(local)
    assert (seen["first_name"], seen["status"], seen["intakeq_client_id"]) == ("Local", "active", None)


async def test_a_second_local_patient_with_the_email_ends_the_link(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.local_patient("A@example.test")
    assert await practice.link() == LinkReport(linked=0, ended=1, ambiguous=1)


async def test_a_link_comes_back_when_the_ambiguity_is_gone(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("13", "a@example.test")
    await practice.link()
    await practice.client("13", "b@example.test")
    assert await practice.link() == LinkReport(linked=1, ended=0, ambiguous=0)
    assert await practice.standing() == {(practice.connections[0], "12"): local}


async def test_a_clients_changed_email_keeps_the_link_until_another_has_a_claim(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("12", "new@example.test")
    assert await practice.link() == NOTHING
    assert (await practice.patient(local))["email"] == "new@example.test"
    await practice.client("13", "a@example.test")
    assert await practice.link() == LinkReport(linked=1, ended=1, ambiguous=0)
    assert await practice.standing() == {(practice.connections[0], "13"): local}


async def test_a_local_patient_with_the_clients_new_email_has_a_claim(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("12", "new@example.test")
    newer = await practice.local_patient("new@example.test")
    await practice.link()
    assert await practice.standing() == {(practice.connections[0], "12"): newer}


async def test_a_deleted_client_leaves_its_place_to_the_one_that_lives(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    gone = await practice.client("12", "a@example.test")
    await practice.link()
    await practice.client("12", "a@example.test", deleted=True)
    await practice.client("13", "a@example.test")
    assert await practice.link() == LinkReport(linked=1, ended=1, ambiguous=0)
    assert await practice.standing() == {(practice.connections[0], "13"): local}
    assert (await practice.patient(gone))["status"] == "archived"
    assert (await practice.patient(local))["status"] == "active"


async def test_what_was_undone_is_not_done_again(practice: Practice) -> None:
    local = await practice.local_patient("a@example.test")
    derived = await practice.client("12", "a@example.test")
    await practice.appointment("a1", "12")
    await practice.link()
    (link,) = await practice.links.links(practice.organization_id)
    assert await practice.links.undo(link.id, practice.organization_id, NOW)
    assert await practice.owners() == {derived}
    assert (await practice.patient(local))["first_name"] == "Local"
    assert await practice.link() == NOTHING
    assert not await practice.links.undo(link.id, practice.organization_id, NOW)


async def test_another_organization_can_neither_see_nor_undo_a_link(practice: Practice) -> None:
    await practice.local_patient("a@example.test")
    await practice.client("12", "a@example.test")
    await practice.link()
    (link,) = await practice.links.links(None)
    stranger = OrganizationId(uuid4())
    assert await practice.links.links(stranger) == []
    assert not await practice.links.undo(link.id, stranger, NOW)
    assert await practice.standing() != {}


async def test_affiliations_follow_the_link_where_they_do_not_clash_and_return_when_it_ends(
    practice: Practice, database: asyncpg.Connection
) -> None:
    shared, theirs = await insert_organization(database), await insert_organization(database)
    local = await practice.local_patient("a@example.test", partner=shared)
    derived = await practice.client("12", "a@example.test")
    await practice.affiliate(derived, shared)
    await practice.affiliate(derived, theirs)
    await practice.link()
    assert await practice.partners_of(local) == {shared, theirs}
    assert await practice.partners_of(derived) == {shared}
    (link,) = await practice.links.links(None)
    await practice.links.undo(link.id, None, NOW)
    assert await practice.partners_of(local) == {shared}
    assert await practice.partners_of(derived) == {shared, theirs}


async def test_a_record_written_while_its_client_was_being_linked_is_pointed_right_by_the_next_run(
    practice: Practice, database: asyncpg.Connection
) -> None:
    local = await practice.local_patient("a@example.test")
    derived = await practice.client("12", "a@example.test")
    await practice.link()
    await practice.appointment("a1", "12")
    await database.execute("UPDATE appointments SET patient_id = $1", derived)
    await practice.link()
    assert await practice.owners() == {local}


async def test_missing_client_ids_are_filled_in_from_living_clients(
    practice: Practice, database: asyncpg.Connection
) -> None:
    living, gone = await practice.client("12", "a@example.test"), await practice.client("13", None, deleted=True)
    await database.execute("UPDATE patients SET intakeq_client_id = NULL")
    assert await practice.links.backfill_client_ids(NOW) == 1
    assert (await practice.patient(living))["intakeq_client_id"] == "12"
    assert (await practice.patient(gone))["intakeq_client_id"] is None
    assert await practice.links.backfill_client_ids(NOW) == 0
