"""One attempt of the deliverer: what each answer means for the item, for the others, and for the whole queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Accepted, Action, Answer, Deferred, Failed, Halted, Refused
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import Claim, OutboundQueue
from eventsync.stages.deliver import Delivery
from eventsync.stages.rest import Rest
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.delivery_site import ACCEPTED, DeliverySite, ManualSeconds, ScriptedRegistry, organizations
from stages.spine import DEADLINE_S

FAILED = Failed("it broke", 500)
HALTED = Halted("the key is refused", 401)


@pytest.fixture
def site(pool: Database, database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> DeliverySite:
    return DeliverySite(pool, database, connection_ids[0])


async def test_an_accepted_item_succeeds_and_keeps_the_remote_id(site: DeliverySite) -> None:
    item_id = await site.put()
    delivery = await site.deliverer().deliver_next()
    assert delivery is not None
    assert delivery == Delivery(delivery.claim, ACCEPTED, is_kept=True)
    row = await site.row(item_id)
    assert (row["status"], row["attempts"], row["remote_org_id"]) == ("success", 1, "remote-1")
    assert [item.idempotency_key for item in site.scripted.sent] == [row["idempotency_key"]]
    assert site.count("accepted") == 1
    assert site.metrics.registry.get_sample_value("eventsync_outbound_delivery_seconds_count") == 1


async def test_without_anything_due_nothing_is_sent(site: DeliverySite) -> None:
    assert await site.deliverer().deliver_next() is None
    assert site.scripted.sent == []


async def test_without_a_connection_an_item_waits_untouched(site: DeliverySite) -> None:
    item_id = await site.put()
    site.registry = None
    assert await site.deliverer().deliver_next() is None
    assert await site.state(item_id) == ("pending", 0, None)


async def test_a_refused_item_fails_at_once_with_the_servers_words(site: DeliverySite) -> None:
    item_id = await site.put()
    site.registry = ScriptedRegistry(Refused("rfc: not a tax id", 422))
    with capture_logs() as logs:
        await site.deliverer().deliver_next()
    assert await site.state(item_id) == ("failed", 1, "rfc: not a tax id")
    assert "not a tax id" not in str(logs)
    assert logs[-1]["event"] == "outbound_attempt_refused"


async def test_three_failed_attempts_end_an_item_and_each_keeps_the_key_and_waits_longer(site: DeliverySite) -> None:
    item_id = await site.put()
    site.registry = ScriptedRegistry(FAILED)
    deliverer = site.deliverer()
    waits = []
    for attempt in (1, 2):
        delivery = await deliverer.deliver_next()
        assert delivery is not None
        assert delivery.next_try_at is not None
        assert await site.state(item_id) == ("pending", attempt, "it broke")
        waits.append((delivery.next_try_at - site.clock()).total_seconds())
        assert await deliverer.deliver_next() is None
        site.advance(waits[-1])
    assert 15 <= waits[0] <= 45
    assert 60 <= waits[1] <= 180
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert delivery.next_try_at is None
    assert await site.state(item_id) == ("failed", 3, "it broke")
    site.advance(10_000)
    assert await deliverer.deliver_next() is None
    assert len({item.idempotency_key for item in site.scripted.sent}) == 1


async def test_a_failing_item_does_not_hold_up_those_behind_it(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2, 3)]
    site.registry = ScriptedRegistry(FAILED, ACCEPTED)
    deliverer = site.deliverer()
    while await deliverer.deliver_next():
        pass
    assert organizations(site.scripted.sent) == [1, 2, 3]
    assert [(await site.state(item))[0] for item in items] == ["pending", "success", "success"]


@pytest.mark.parametrize("retry_after_s", [None, 90.0])
async def test_a_deferred_attempt_does_not_count_and_the_others_wait_along(
    site: DeliverySite, retry_after_s: float | None
) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(Deferred("not now", 429, retry_after_s), ACCEPTED)
    deliverer = site.deliverer()
    delivery = await deliverer.deliver_next()
    wait_s = retry_after_s or 1.0
    assert delivery is not None
    assert delivery.next_try_at == site.clock() + timedelta(seconds=wait_s)
    assert await site.state(items[0]) == ("pending", 0, "not now")
    site.advance(wait_s - 0.5)
    assert deliverer.resting_s == 0.5
    assert await deliverer.deliver_next() is None
    site.advance(0.5)
    while await deliverer.deliver_next():
        pass
    assert await site.statuses() == ["success", "success"]
    assert (await site.row(items[0]))["attempts"] == 1


async def test_a_failure_that_names_a_wait_keeps_the_whole_deliverer_waiting(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(Failed("busy", 503, retry_after_s=120), ACCEPTED)
    deliverer = site.deliverer()
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert delivery.next_try_at is not None
    assert delivery.next_try_at >= site.clock() + timedelta(seconds=120)
    assert (await site.state(items[0]))[1] == 1
    site.advance(119)
    assert await deliverer.deliver_next() is None
    site.advance(1)
    assert await deliverer.deliver_next() is not None


async def test_an_outage_at_the_other_side_does_not_burn_every_items_attempts(site: DeliverySite) -> None:
    for number in range(20):
        await site.put(number)
    site.registry = ScriptedRegistry(FAILED)
    deliverer = site.deliverer()
    for _ in range(600):  # ten minutes
        await deliverer.deliver_next()
        site.advance(1)
    assert 3 <= len(site.scripted.sent) <= 8
    assert "failed" not in await site.statuses()


async def test_a_changed_connection_ends_the_rest(site: DeliverySite) -> None:
    await site.put()
    site.registry = ScriptedRegistry(Deferred("cannot connect", None, 3600.0))
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    assert deliverer.resting_s == 3600
    site.registry = ScriptedRegistry()
    assert await deliverer.deliver_next() is not None
    assert await site.statuses() == ["success"]


async def test_a_refused_account_halts_every_deliverer_with_one_alarm_and_a_probe_resumes(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(HALTED, HALTED, ACCEPTED)
    deliverers = [site.deliverer(), site.deliverer()]
    with capture_logs() as logs:
        for _ in range(2):
            for deliverer in deliverers:
                await deliverer.deliver_next()
            assert await site.state(items[0]) == ("pending", 0, "the key is refused")
            site.advance(60)
        assert len(site.scripted.sent) == 2  # one a minute, whoever asks
        for deliverer in deliverers:
            while await deliverer.deliver_next():
                pass
    assert [entry["log_level"] for entry in logs if entry["event"] == "outbound_paused"] == ["error"]
    assert [entry["event"] for entry in logs].count("outbound_resumed") == 1
    assert await site.statuses() == ["success", "success"]
    assert (await site.row(items[0]))["attempts"] == 1


async def test_a_refused_probe_shows_that_the_account_works_again(site: DeliverySite) -> None:
    for number in (1, 2):
        await site.put(number)
    site.registry = ScriptedRegistry(HALTED, Refused("no such plan", 400), ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(60)
    while await deliverer.deliver_next():
        pass
    assert await site.statuses() == ["success", "failed"]  # the other item was the probe


@pytest.mark.parametrize("answer", [FAILED, Deferred("not now", None, 1.0)])
async def test_a_probe_that_tells_nothing_of_the_account_leaves_it_paused(site: DeliverySite, answer: Answer) -> None:
    for number in (1, 2):
        await site.put(number)
    site.registry = ScriptedRegistry(HALTED, answer, ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(60)
    assert await deliverer.deliver_next() is not None
    site.advance(2)
    assert await deliverer.deliver_next() is None
    assert (await site.queue.measure()).paused_at is not None
    site.advance(60)
    while await deliverer.deliver_next():
        pass
    assert (await site.queue.measure()).paused_at is None


async def test_a_changed_connection_is_tried_at_once_although_the_queue_is_paused(site: DeliverySite) -> None:
    await site.put()
    site.registry = ScriptedRegistry(HALTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(1)
    assert await deliverer.deliver_next() is None
    await site.database.execute(
        "UPDATE connections SET updated_at = $2 WHERE id = $1", site.connection_id, site.clock()
    )
    site.registry = ScriptedRegistry()
    assert await deliverer.deliver_next() is not None
    assert await site.statuses() == ["success"]


async def test_a_person_who_puts_an_item_back_during_its_post_gets_another_attempt(site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    deliverer = site.deliverer()
    delivering = asyncio.create_task(deliverer.deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await site.put_back(item_id)
        site.scripted.gate.set()
        delivery = await delivering
    assert delivery is not None
    assert not delivery.is_kept
    assert (await site.state(item_id))[0] == "pending"
    assert site.count("lost") == 1
    await deliverer.deliver_next()
    assert (await site.state(item_id))[0] == "success"


@pytest.mark.parametrize("error", [ZeroDivisionError("Test Client 12"), KeyError("name")])
async def test_a_fault_of_ours_in_one_item_counts_for_it_and_stops_no_other(
    site: DeliverySite, error: Exception
) -> None:
    items = [await site.put(number) for number in range(5)]
    site.registry = ScriptedRegistry(*[error] * 4, ACCEPTED)
    deliverer = site.deliverer()
    with capture_logs() as logs:
        while await deliverer.deliver_next():
            pass
    assert await site.state(items[0]) == ("pending", 1, f"internal error ({type(error).__name__})")
    assert (await site.statuses())[4] == "success"
    (first, *_) = [entry for entry in logs if entry["event"] == "outbound_item_broke_off"]
    assert first["where"].startswith("stages.delivery_site:")
    assert "Test Client" not in str(logs)


@pytest.mark.parametrize("error", [Transient("the ledger is away"), Misconfigured("PostgreSQL refuses us")])
async def test_an_attempt_for_which_the_budget_cannot_be_asked_does_not_count(
    site: DeliverySite, error: Exception
) -> None:
    item_id = await site.put()
    site.registry = ScriptedRegistry(error)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    assert await site.state(item_id) == ("pending", 0, str(error))
    assert deliverer.resting_s == 1.0


async def test_words_that_postgresql_cannot_hold_do_not_let_an_item_be_sent_again(site: DeliverySite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    site.registry = ScriptedRegistry(Accepted("a\0b\ud800", 200), Refused("no\0\udfff" + "x" * 5000, 400))
    deliverer = site.deliverer()
    while await deliverer.deliver_next():
        pass
    assert await site.statuses() == ["success", "failed"]
    assert (await site.row(items[0]))["remote_org_id"] == "ab?"
    assert ((await site.state(items[1]))[2] or "").startswith("no?xxx")


class StandingQueue(OutboundQueue):
    """A queue whose claim is followed by a standstill of the whole process."""

    def __init__(self, site: DeliverySite, *, clock_s: float, seconds: float) -> None:
        super().__init__(site.pool)
        self._site, self._clock_s, self._seconds = site, clock_s, seconds

    async def claim(self, connection_id: ConnectionId, now: datetime, leased_until: datetime) -> Claim | None:
        claim = await super().claim(connection_id, now, leased_until)
        self._site.clock.advance(self._clock_s)
        self._site.seconds.now_s += self._seconds
        return claim


@pytest.mark.parametrize(("clock_s", "seconds"), [(0.0, 61.0), (61.0, 0.0), (-600.0, 61.0)])
async def test_a_process_that_stood_still_sends_nothing_that_may_be_anothers_by_now(
    site: DeliverySite, clock_s: float, seconds: float
) -> None:
    item_id = await site.put()
    delivery = await site.deliverer(queue=StandingQueue(site, clock_s=clock_s, seconds=seconds)).deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Deferred)
    assert site.scripted.sent == []
    assert (await site.state(item_id))[:2] == ("pending", 0)


async def test_an_attempt_ends_before_its_lease_does_and_counts_as_one_whose_outcome_nobody_knows(
    site: DeliverySite,
) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(DEADLINE_S):
        delivery = await site.deliverer(lease_s=1.0, monotonic=loop.time).deliver_next()
    assert loop.time() - began < 1.0
    assert delivery is not None
    assert delivery.is_kept
    assert (await site.state(item_id))[:2] == ("pending", 1)


async def test_an_attempt_under_way_when_its_worker_is_stopped_ends_in_order(site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer().deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        delivering.cancel()
        site.scripted.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await delivering
    assert (await site.state(item_id))[:2] == ("success", 1)


async def test_an_attempt_that_outlasts_the_grace_counts_and_is_made_again_with_its_key(site: DeliverySite) -> None:
    item_id = await site.put()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer(grace_s=0.0).deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
    assert (await site.state(item_id))[:2] == ("processing", 1)
    other = site.deliverer()
    assert await other.return_stuck() == []
    assert await other.deliver_next() is None
    site.advance(61)
    (stuck,) = await other.return_stuck()
    assert (stuck.id, stuck.is_given_up) == (item_id, False)
    site.scripted.gate.set()
    await other.deliver_next()
    assert (await site.state(item_id))[:2] == ("success", 2)
    assert len({item.idempotency_key for item in site.scripted.sent}) == 1


async def test_the_third_death_over_an_item_ends_it(site: DeliverySite) -> None:
    item_id = await site.put()
    with capture_logs() as logs:
        for _ in range(3):
            now = site.clock()
            assert await site.queue.claim(site.connection_id, now, now + timedelta(seconds=60)) is not None
            site.advance(61)
            await site.deliverer().return_stuck()
    assert (await site.state(item_id))[:2] == ("failed", 3)
    assert logs[-1]["event"] == "outbound_item_given_up"


async def test_an_answer_is_written_however_long_postgresql_is_away(
    site: DeliverySite, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    item_id = await site.put()
    proxy = await tcp_proxy(site.pool.url)
    pool = Database(proxy.url)
    await pool.open()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer(queue=OutboundQueue(pool)).deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await proxy.refuse()
        proxy.cut()
        with capture_logs() as logs:
            site.scripted.gate.set()
            await eventually(lambda: [entry for entry in logs if entry["event"] == "holding_on"])
            await proxy.accept()
            delivery = await delivering
    assert delivery is not None
    assert delivery.is_kept
    assert (await site.state(item_id))[:2] == ("success", 1)
    assert len(site.scripted.sent) == 1
    await pool.close()


async def test_an_answer_that_could_not_be_written_in_time_leaves_the_item_to_whoever_took_it(
    site: DeliverySite, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    item_id = await site.put()
    proxy = await tcp_proxy(site.pool.url)
    pool = Database(proxy.url)
    await pool.open()
    site.scripted.gate.clear()
    delivering = asyncio.create_task(site.deliverer(queue=OutboundQueue(pool)).deliver_next())
    async with asyncio.timeout(DEADLINE_S):
        await site.scripted.begun.wait()
        await proxy.refuse()
        proxy.cut()
        site.scripted.gate.set()
        await site.queue.return_stuck(site.clock() + timedelta(seconds=61))
        now = site.clock() + timedelta(seconds=62)
        assert await site.queue.claim(site.connection_id, now, now + timedelta(seconds=60)) is not None
        await proxy.accept()
        delivery = await delivering
    assert delivery is not None
    assert not delivery.is_kept
    assert (await site.state(item_id))[:2] == ("processing", 2)
    await pool.close()


async def test_an_update_waits_for_its_register_and_carries_the_updates_before_it(site: DeliverySite) -> None:
    await site.put(1)
    await site.put(1, Action.UPDATE, {"organization_name": "Test Practice 1b"})
    await site.put(1, Action.UPDATE, {"organization_name": "Test Practice 1c"})
    site.registry = ScriptedRegistry(FAILED, ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    assert await deliverer.deliver_next() is None  # the update waits for its register
    site.advance(60)
    deliveries = [delivery async for delivery in all_of(deliverer.deliver_next)]
    assert [delivery.claim.item.action for delivery in deliveries] == [Action.REGISTER, Action.UPDATE]
    assert len(deliveries[1].claim.superseded) == 1
    assert await site.statuses() == ["success"] * 3


async def all_of(deliver_next: Callable[[], Awaitable[Delivery | None]]) -> Any:
    while (delivery := await deliver_next()) is not None:
        yield delivery


def test_what_is_unreachable_is_tried_seldomer_and_seldomer_until_it_answers() -> None:
    seconds = ManualSeconds()
    rest = Rest(seconds)
    waits = []
    for _ in range(8):
        rest.note(Deferred("cannot connect"))
        waits.append(rest.left_s)
        seconds.now_s += rest.left_s
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    rest.note(FAILED)
    assert rest.left_s == 0
    rest.note(Deferred("cannot connect"))
    assert rest.left_s == 1


def test_failures_in_a_row_let_the_queue_rest_longer_and_longer_until_something_is_taken() -> None:
    seconds = ManualSeconds()
    rest = Rest(seconds)
    waits = []
    for _ in range(8):
        rest.note(FAILED)
        waits.append(rest.left_s)
        seconds.now_s += rest.left_s
    assert waits == [0, 0, 30, 60, 120, 240, 300, 300]
    rest.note(Refused("no", 400))
    rest.note(FAILED)
    assert rest.left_s == 0


async def test_an_item_that_alone_is_refused_leaves_the_next_probe_to_another(site: DeliverySite) -> None:
    refused, fine = await site.put(1), await site.put(2)
    site.registry = ScriptedRegistry(HALTED, ACCEPTED, HALTED, ACCEPTED)
    deliverer = site.deliverer()
    await deliverer.deliver_next()
    site.advance(61)
    await deliverer.deliver_next()
    assert [await site.state(item_id) for item_id in (refused, fine)] == [
        ("pending", 0, "the key is refused"),
        ("success", 1, None),
    ]


def test_what_halts_the_queue_lets_no_single_deliverer_rest() -> None:
    rest = Rest(ManualSeconds())
    rest.note(HALTED)
    assert rest.left_s == 0


@pytest.mark.parametrize("wait_s", [7, 7.5])
def test_a_stated_wait_is_kept_to_the_second(wait_s: float) -> None:
    seconds = ManualSeconds()
    rest = Rest(seconds)
    rest.note(Deferred("limit", 429, wait_s))
    assert rest.left_s == wait_s
    seconds.now_s += wait_s
    assert rest.left_s == 0
