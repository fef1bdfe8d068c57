import random
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from eventsync.sandbox import NotPossibleError, QuotaLimits, SandboxClock
from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.changes import KEPT, ChangeFeed
from eventsync.sandbox.intakeq.api import IntakeQApi
from eventsync.sandbox.intakeq.vendor import IntakeQVendor, open_intakeq
from eventsync.sandbox.vendor import RecordChange
from sandbox.sandbox_receiver import START_MS, calling, small

DAY_MS = 86_400_000
QUERIES: list[tuple[str, dict[str, str]]] = [
    ("appointments", {}),
    ("appointments", {"startDate": "2026-09-21", "endDate": "2026-10-21"}),
    ("appointments", {"status": "Confirmed", "updatedSince": "2026-09-21"}),
    ("appointments", {"deletedOnly": "true"}),
    ("clients", {"includeProfile": "true"}),
    ("clients", {"deletedOnly": "true"}),
    ("clients", {"search": "test client 1"}),
    ("intakes", {"all": "true"}),
    ("notes", {}),
    ("invoices", {"status": "Unpaid"}),
]


async def listed(api: IntakeQApi, name: str, query: dict[str, str], page: int) -> Any:
    handlers = {
        "appointments": api.list_appointments,
        "clients": api.list_clients,
        "intakes": api.list_intakes,
        "notes": api.list_notes,
        "invoices": api.list_invoices,
    }
    request: Any = SimpleNamespace(query=query | {"page": str(page)})
    return orjson.loads((await handlers[name](request)).body)  # type: ignore[arg-type]  # these handlers answer bytes


def do_something(vendor: IntakeQVendor, rng: random.Random, now_ms: int) -> None:
    try:
        rng.choice([*vendor.actions.values()]).do(now_ms, Arguments())
    except NotPossibleError:
        return  # nothing waits to be confirmed, say


@pytest.mark.parametrize("seed", range(4))
async def test_a_list_that_follows_changes_equals_one_made_anew(seed: int) -> None:
    vendor = open_intakeq(small(seed=seed, clients=60, appointments=250), START_MS)
    clock = SandboxClock(START_MS, speed=0)
    following = IntakeQApi(vendor.practice, clock.now_ms)
    rng = random.Random(seed)
    for _ in range(150):
        for _ in range(rng.choice((0, 1, 1, 5))):
            do_something(vendor, rng, clock.now_ms())
        clock.advance(rng.choice((0, 10, DAY_MS // 4)))
        name, query = rng.choice(QUERIES)
        page = rng.choice((1, 1, 2, 3, 9))
        fresh = IntakeQApi(vendor.practice, clock.now_ms)
        assert await listed(following, name, query, page) == await listed(fresh, name, query, page)


async def test_a_record_that_vanished_past_the_feed_is_missed_by_no_list() -> None:
    vendor = open_intakeq(small(), START_MS)
    api = IntakeQApi(vendor.practice, lambda: START_MS)
    before = await listed(api, "notes", {}, 1)
    del vendor.practice.notes[before[0]["Id"]]
    vendor.practice.revision += 1
    assert await listed(api, "notes", {}, 1) == before[1:]


def test_a_feed_knows_its_gaps_and_its_end() -> None:
    feed = ChangeFeed()
    for revision in (1, 2, 4):
        feed.add(RecordChange(revision, "note", "n", 0))
    assert feed.between(4, 4) == []
    assert [change.revision for change in feed.between(0, 2) or ()] == []  # its latest is not the practice's
    assert feed.between(3, 4) == [RecordChange(4, "note", "n", 0)]
    assert feed.between(1, 4) is None
    assert feed.between(4, 5) is None
    for revision in range(5, KEPT + 10):
        feed.add(RecordChange(revision, "note", "n", 0))
    assert feed.between(4, KEPT + 9) is None
    assert len(feed.between(KEPT, KEPT + 9) or ()) == 9


async def test_ten_thousand_clients_and_thirty_thousand_appointments_are_read_within_a_day_s_calls() -> None:
    quota = QuotaLimits(per_minute=None, per_day=500)
    async with calling(small(clients=10_000, appointments=30_000, quota=quota)) as caller:
        appointments = await caller.pages("/appointments")
        clients = await caller.pages("/clients?includeProfile=true")
        assert len({row["Id"] for row in appointments}) == 30_000
        assert len({row["ClientId"] for row in clients}) == 10_000
        assert min(row["StartDate"] for row in appointments) >= START_MS - 91 * DAY_MS
        assert max(row["StartDate"] for row in appointments) <= START_MS + 91 * DAY_MS
        assert caller.running.sandbox.stats.api_answers == {"200": 402}
