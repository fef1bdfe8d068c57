"""Events by command against a running instance: sent, listed, shown, explained, replayed; bodies are logged reading."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from cli.runs import Cli
from e2e.eventsync_process import EventsyncProcess
from e2e.fixtures import Start
from eventsync.cli.specimen import specimen
from servers.eventually import eventually

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PRACTICE = ("--practice-id", "65f0c0ffee65f0c0ffee0003")


@pytest.fixture
async def running(start_eventsync: Start, connection: dict[str, Any]) -> EventsyncProcess:
    """A whole instance in a process of its own, with one connection."""
    return await start_eventsync()


async def sent(cli: Cli, running: EventsyncProcess, *words: str) -> dict[str, Any]:
    ended = await cli("send-test-event", "--url", running.base_url, "--json", *words)
    assert ended.exit_code == 0, ended.stderr
    result: dict[str, Any] = ended.json
    return result


async def post(webhook_url: str) -> None:
    made = specimen("intakeq", "AppointmentCreated", nonce=uuid4(), now=NOW, record_id=None, practice_id=None)
    async with aiohttp.ClientSession() as http, http.post(webhook_url, data=made.body) as answer:
        assert answer.status == 200


async def test_a_test_event_becomes_a_row_and_is_taken_away_again(
    cli: Cli, running: EventsyncProcess, database: asyncpg.Connection
) -> None:
    created = await sent(cli, running)
    assert (created["answer"], created["state"]) == (200, "applied")
    assert 0 < created["latency_ms"] < 10_000
    row = await database.fetchrow("SELECT deleted_at FROM appointments WHERE external_id = $1", created["record"])
    assert row["deleted_at"] is None
    deleted = await sent(cli, running, "--event", "AppointmentDeleted", "--record", created["record"])
    assert deleted["changed_fields"] == ["deleted_at"]
    assert await database.fetchval("SELECT count(*) FROM patient_identities") == 1


async def test_a_test_event_is_signed_where_the_connection_asks_for_it(
    cli: Cli, running: EventsyncProcess, database: asyncpg.Connection
) -> None:
    words = ("--hmac-secret", "s1", "--hmac-header", "X-Signature", "--hmac-prefix", "sha256=", *PRACTICE)
    added = await cli("connections", "add", "intakeq", "--org", "practice-7", "--api-key", "k2", *words, "--json")
    signed = await sent(cli, running, "--connection", str(added.json["number"]), "--event", "InvoicePaid")
    assert signed["state"] == "applied"


async def test_a_test_event_waits_no_longer_than_it_may(cli: Cli, start_eventsync: Start, connection: object) -> None:
    door = await start_eventsync("ingress")
    ended = await cli("send-test-event", "--url", door.base_url, "--wait", "0.2", "--json")
    assert ended.exit_code == 1
    assert ended.json["state"] is None
    assert "relay and consumer" in ended.stderr


async def test_a_test_event_to_nobody_says_so_without_telling_the_token(cli: Cli, connection: dict[str, Any]) -> None:
    ended = await cli("send-test-event", "--url", "http://127.0.0.1:1")
    assert ended.exit_code == 1
    assert "does not answer" in ended.stderr
    assert connection["webhook_url"].rpartition("/")[2] not in ended.stderr


async def test_a_test_event_that_the_vendor_does_not_have_is_bad_usage(cli: Cli, connection: dict[str, Any]) -> None:
    ended = await cli("send-test-event", "--event", "AppointmentImagined")
    assert ended.exit_code == 2
    assert "AppointmentCreated" in ended.stderr


async def test_events_are_found_by_what_they_were_and_page_by_page(cli: Cli, running: EventsyncProcess) -> None:
    first = await sent(cli, running)
    second = await sent(cli, running, "--event", "AppointmentCanceled", "--record", first["record"])
    third = await sent(cli, running, "--event", "InvoicePaid")

    async def listed(*words: str) -> list[str]:
        ended = await cli("events", "list", "--json", *words)
        assert ended.exit_code == 0, ended.stderr
        return [event["event_id"] for event in ended.json]

    everything = [third["event_id"], second["event_id"], first["event_id"]]
    assert await listed() == everything
    assert await listed("--record", f"appointment:{first['record']}") == everything[1:]
    assert await listed("--type", "InvoicePaid", "--state", "applied", "--since", "1h") == everything[:1]
    assert await listed("--limit", "1") == everything[:1]
    assert await listed("--before", everything[0], "--connection", "1", "--org", "practice-7") == everything[1:]
    assert await listed("--until", "1d") == []
    assert "InvoicePaid" in (await cli("events", "list")).stdout


@pytest.mark.parametrize("words", [("--since", "soon"), ("--record", "1234"), ("--state", "lost"), ("--before", "x")])
async def test_a_filter_that_cannot_be_is_bad_usage(cli: Cli, words: tuple[str, ...]) -> None:
    assert (await cli("events", "list", *words)).exit_code == 2


async def test_an_events_body_is_shown_on_demand_only_and_that_is_logged(
    cli: Cli, running: EventsyncProcess, database: asyncpg.Connection
) -> None:
    event_id = (await sent(cli, running))["event_id"]
    await database.execute("DELETE FROM access_log")
    shown = await cli("events", "show", event_id)
    assert "applied" in shown.stdout
    assert "client12@example.test" not in shown.stdout
    assert await database.fetchval("SELECT count(*) FROM access_log") == 0
    with_body = (await cli("events", "show", event_id, "--body", "--json")).json
    assert with_body["request"]["body"]["Appointment"]["ClientEmail"] == "client12@example.test"
    assert "client12@example.test" in (await cli("events", "show", event_id, "--body")).stdout
    subjects = await database.fetch("SELECT action, subject FROM access_log")
    assert [tuple(row) for row in subjects] == [("read_event_body", f"event:{event_id}")] * 2


@pytest.mark.parametrize("event_id", [str(uuid4()), "ffffffff-ffff-7fff-bfff-ffffffffffff"])
async def test_an_event_that_is_not_there_ends_with_1(cli: Cli, event_id: str) -> None:
    assert (await cli("events", "show", event_id)).exit_code == 1
    assert (await cli("events", "replay", event_id)).exit_code == 1


async def test_a_finished_event_is_repeated_by_a_new_one(
    cli: Cli, running: EventsyncProcess, database: asyncpg.Connection
) -> None:
    event_id = (await sent(cli, running))["event_id"]
    (step,) = (await cli("events", "replay", event_id, "--dry-run", "--json")).json
    assert (step["action"], step["state"]) == ("repeat", "applied")
    assert await database.fetchval("SELECT count(*) FROM events") == 1
    (replayed,) = (await cli("events", "replay", event_id, "--json")).json
    assert replayed["done"]

    async def end_of_the_repeat() -> tuple[str, ...]:
        statement = "SELECT outcome, caused_by::text, source FROM event_history WHERE event_id = $1"
        return tuple(await database.fetchrow(statement, replayed["new_event_id"]) or ())

    assert await eventually(end_of_the_repeat) == ("unchanged", event_id, "replay")


async def test_parked_events_found_by_a_filter_are_replayed_after_a_look(
    cli: Cli, running: EventsyncProcess, database: asyncpg.Connection
) -> None:
    words = ("--org", "practice-7", "--api-key", "k2", "--practice-id", "65f0c0ffee65f0c0ffee0099")
    added = (
        await cli("connections", "add", "intakeq", *words, "--json", env={"EVENTSYNC_PUBLIC_URL": running.base_url})
    ).json
    await post(added["webhook_url"])  # it belongs to another practice

    async def parked() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await cli("events", "list", "--state", "parked", "--json")).json
        return found

    (event,) = await eventually(parked)
    assert event["reason"] == "practice_mismatch"
    unasked = await cli("events", "replay", "--state", "parked")
    assert (unasked.exit_code, "--yes" in unasked.stderr) == (2, True)
    (step,) = (await cli("events", "replay", "--state", "parked", "--dry-run", "--json")).json
    assert (step["event_id"], step["action"]) == (event["event_id"], "unpark")
    assert len(await parked()) == 1

    await database.execute("UPDATE connections SET practice_id = NULL WHERE number = $1", added["number"])

    async def replayed() -> bool:
        """Replay until the running instance has heard that the connection was corrected."""
        await cli("events", "replay", "--state", "parked", "--yes")
        outcome = await database.fetchval("SELECT outcome FROM event_history WHERE event_id = $1", event["event_id"])
        return bool(outcome == "applied")

    assert await eventually(replayed)


@pytest.mark.parametrize("words", [(), (str(uuid4()), "--state", "parked")], ids=["nothing", "both"])
async def test_a_replay_needs_ids_or_filters(cli: Cli, words: tuple[str, ...]) -> None:
    assert (await cli("events", "replay", *words)).exit_code == 2


async def test_a_record_is_explained_by_its_events_in_order(cli: Cli, running: EventsyncProcess) -> None:
    record = (await sent(cli, running))["record"]
    await sent(cli, running, "--event", "AppointmentCanceled", "--record", record)
    await sent(cli, running, "--event", "AppointmentDeleted", "--record", record)
    explained = await cli("explain", "appointment", record)
    assert explained.exit_code == 0, explained.stderr
    positions = [explained.stdout.index(f"Appointment{word}") for word in ("Created", "Canceled", "Deleted")]
    assert positions == sorted(positions)
    assert "client12@example.test" not in explained.stdout
    as_json = (await cli("explain", "appointment", record, "--connection", "1", "--json")).json
    assert [event["state"] for event in as_json["events"]] == ["applied"] * 3
    assert as_json["records"][0]["version"]["deleted"] is True
    assert (await cli("explain", "invoice", record)).exit_code == 1


async def test_a_patients_history_holds_the_appointments_that_name_them(
    cli: Cli, running: EventsyncProcess, database: asyncpg.Connection
) -> None:
    await sent(cli, running)
    client_id = await database.fetchval("SELECT external_id FROM patient_identities")
    explained = await cli("explain", "patient", client_id)
    assert explained.exit_code == 0, explained.stderr
    assert "AppointmentCreated" in explained.stdout


async def test_every_sample_of_the_vendor_can_be_sent_as_a_test_event(cli: Cli, running: EventsyncProcess) -> None:
    for event in ("AppointmentConfirmed", "AppointmentRescheduled", "AppointmentMissed", "InvoiceIssued"):
        assert (await sent(cli, running, "--event", event))["state"] == "applied"
