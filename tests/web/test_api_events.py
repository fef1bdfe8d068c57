"""Events over the management API: searched page by page, shown, applied again, and nobody else's business."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from eventsync.domain.events import EventId, EventSource, IncomingEvent, new_event_id
from eventsync.postgres.access import Role
from web.api_site import BODY, HEADERS, NOW, Answer, Site


def path_of(event_id: UUID) -> str:
    return f"/api/v1/events/{event_id}"


async def test_pages_give_every_event_once_while_new_ones_arrive(site: Site) -> None:
    before = [str(await site.event(site.practice, number // 3)) for number in range(20)]  # three at the same time
    arriving = asyncio.create_task(_arrive(site, 40))
    try:
        seen = await site.read_all("/api/v1/events", site.practice.viewer, limit="3")
    finally:
        arrived = await arriving
    assert len(seen) == len(set(seen))
    assert set(before) <= set(seen) <= set(before) | set(arrived)
    assert (await site.get("/api/v1/events", site.practice.viewer)).ids == sorted([*before, *arrived], reverse=True)[
        :50
    ]


async def _arrive(site: Site, count: int) -> list[str]:
    return [str(await site.event(site.practice, 60 + number)) for number in range(count)]


async def test_an_event_that_ends_between_two_pages_is_neither_lost_nor_doubled(site: Site) -> None:
    events = [await site.event(site.practice, number) for number in range(6)]
    first = await site.get("/api/v1/events", site.practice.viewer, limit="3")
    for event_id in events:
        await site.park(event_id)
    rest = await site.get("/api/v1/events", site.practice.viewer, limit="3", cursor=first.json["next_cursor"])
    assert first.ids + rest.ids == [str(event_id) for event_id in reversed(events)]


async def test_events_are_filtered(site: Site) -> None:
    waiting = str(await site.event(site.practice, 1))
    applied = str(await site.finished_event(site.practice, 2, entity="appointment:a1"))
    other = str(await site.finished_event(site.practice, 3, entity="patient:12"))
    await site.event(site.other, 4)
    at_two = (NOW + timedelta(seconds=2)).isoformat()
    cases: list[tuple[dict[str, str], list[str]]] = [
        ({}, [other, applied, waiting]),
        ({"state": "pending"}, [waiting]),
        ({"state": "applied"}, [other, applied]),
        ({"event_type": "AppointmentCreated"}, [other, applied]),
        ({"entity_kind": "appointment"}, [applied]),
        ({"entity_kind": "patient", "entity_id": "12"}, [other]),
        ({"vendor": "intakeq", "limit": "2"}, [other, applied]),
        ({"vendor": "cliniko"}, []),
        ({"connection_id": str(site.practice.connection_id)}, [other, applied, waiting]),
        ({"connection_id": str(site.other.connection_id)}, []),
        ({"since": at_two}, [other, applied]),
        ({"until": at_two}, [waiting]),
    ]
    for query, expected in cases:
        assert (await site.get("/api/v1/events", site.practice.viewer, **query)).ids == expected, query


async def test_an_event_shows_what_became_of_it_and_not_what_was_in_it(site: Site) -> None:
    event_id = await site.finished_event(site.practice)
    answer = await site.get(path_of(event_id), site.practice.viewer)
    assert answer.status == 200
    assert (answer.json["event"]["state"], answer.json["event"]["changed_fields"]) == ("applied", ["status"])
    assert answer.json["queue"] is None
    assert answer.json["request"] is None
    assert await site.accesses() == []


async def test_an_unfinished_event_shows_its_place_in_the_queue(site: Site) -> None:
    answer = await site.get(path_of(await site.event(site.practice)), site.practice.viewer)
    assert answer.json["queue"]["work"] == "apply"


@pytest.mark.parametrize("who", ["operator", "admin"])
async def test_a_body_is_shown_to_operator_and_admin_and_noted(site: Site, who: str) -> None:
    event_id = await site.event(site.practice)
    made = await site.token(Role(who), None if who == "admin" else site.practice.organization_id)
    answer = await site.get(path_of(event_id), made.token, body="true")
    assert answer.json["request"] == {
        "headers": dict(HEADERS),
        "body": {"EventType": "AppointmentCreated", "Note": "Test Client 12"},
        "body_base64": None,
        "problem": None,
    }
    assert await site.accesses() == [(f"token:{made.id}", "read_event_body", f"event:{event_id}")]


async def test_a_body_that_is_not_json_is_shown_as_it_is(site: Site) -> None:
    event_id = await site.event(site.practice, body=b"\xff not JSON")
    answer = await site.get(path_of(event_id), site.admin, body="true")
    assert answer.json["request"]["body"] is None
    assert answer.json["request"]["problem"] == "invalid_utf8"
    assert answer.json["request"]["body_base64"] == "/yBub3QgSlNPTg=="


async def test_a_compressed_body_is_inflated_within_its_bound(site: Site) -> None:
    for body, problem in ((gzip.compress(BODY), None), (gzip.compress(b"0" * 20_000_000), "body_too_large")):
        event_id = new_event_id(NOW, uuid4().bytes)
        headers = (*HEADERS, ("Content-Encoding", "gzip"))
        connection_id = site.practice.connection_id
        event = IncomingEvent(event_id, connection_id, "intakeq", EventSource.WEBHOOK, headers, body)
        await site.queue.store([event])
        answer = await site.get(path_of(event_id), site.admin, body="true")
        assert answer.json["request"]["problem"] == problem


async def test_a_viewer_sees_no_body(site: Site) -> None:
    event_id = await site.event(site.practice)
    answer = await site.get(path_of(event_id), site.practice.viewer, body="true")
    assert (answer.status, answer.code) == (403, "role_not_allowed")
    assert await site.accesses() == []


async def test_a_strangers_event_is_as_unknown_as_one_that_never_was(site: Site) -> None:
    strange, never = await site.event(site.other), EventId(uuid4())
    calls: list[Callable[[EventId], Awaitable[Answer]]] = [
        lambda event_id: site.get(path_of(event_id), site.practice.operator),
        lambda event_id: site.get(path_of(event_id), site.practice.operator, body="true"),
        lambda event_id: site.post(path_of(event_id) + "/replay", site.practice.operator),
        lambda event_id: site.get(path_of(event_id), site.admin, org="practice-1"),
    ]
    for call in calls:
        answers = [await call(event_id) for event_id in (strange, never)]
        told = [{**answer.json, "timestamp": None} for answer in answers]
        assert told[0] == told[1]
        assert [(answer.status, answer.code) for answer in answers] == [(404, "unknown_event")] * 2
    assert await site.accesses() == []


async def test_a_parked_event_is_given_a_fresh_start(site: Site) -> None:
    event_id = await site.event(site.practice)
    await site.park(event_id)
    replay = path_of(event_id) + "/replay"
    preview = await site.post(replay, site.practice.operator, dry_run="true")
    assert (preview.json["action"], preview.json["dry_run"], preview.json["done"]) == ("unpark", True, False)
    assert (await site.get(path_of(event_id), site.practice.viewer)).json["event"]["state"] == "parked"
    done = await site.post(replay, site.practice.operator)
    assert (done.status, done.json["action"], done.json["done"]) == (200, "unpark", True)
    assert (await site.get(path_of(event_id), site.practice.viewer)).json["event"]["state"] == "pending"


async def test_a_finished_event_is_repeated_by_a_new_one(site: Site) -> None:
    event_id = await site.finished_event(site.practice)
    done = await site.post(path_of(event_id) + "/replay", site.practice.operator)
    repeat = await site.get(path_of(done.json["new_event_id"]), site.practice.viewer)
    assert (repeat.json["event"]["caused_by"], repeat.json["event"]["source"]) == (str(event_id), "replay")


async def test_an_event_on_its_way_is_not_replayed(site: Site) -> None:
    event_id = await site.event(site.practice)
    preview = await site.post(path_of(event_id) + "/replay", site.practice.operator, dry_run="true")
    assert (preview.status, preview.json["action"]) == (200, "none")
    answer = await site.post(path_of(event_id) + "/replay", site.practice.operator)
    assert (answer.status, answer.code) == (409, "not_replayable")


@pytest.mark.parametrize("query", [{"dryrun": "true"}, {"dry_run": "yes"}, {"dry_run": "1"}, {"dry_run": ""}])
async def test_a_mistyped_dry_run_changes_nothing(site: Site, query: dict[str, str]) -> None:
    event_id = await site.finished_event(site.practice)
    answer = await site.post(path_of(event_id) + "/replay", site.practice.operator, **query)
    assert answer.status == 400
    assert len((await site.get("/api/v1/events", site.admin)).ids) == 1


async def test_a_dry_run_in_the_body_changes_nothing(site: Site) -> None:
    event_id = await site.finished_event(site.practice)
    replay = path_of(event_id) + "/replay"
    answer = await site.call("POST", replay, site.practice.operator, data=b'{"dry_run": true}')
    assert (answer.status, answer.code) == (400, "unexpected_body")
    assert len((await site.get("/api/v1/events", site.admin)).ids) == 1
    assert (await site.call("POST", replay, site.practice.operator, data=b" {} ")).status == 200
