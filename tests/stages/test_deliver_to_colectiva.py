"""The outbound queue and the pretend Colectiva: what each bad day leaves behind, and what it costs in POSTs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.crypto import Keyring
from eventsync.domain.deliveries import Accepted, Action, Deferred, Failed, Halted, Refused
from eventsync.postgres.database import Database
from eventsync.sandbox import ApiAnswer, ScriptedCall
from servers.ports import free_ports
from stages.colectiva_site import ColectivaSite, open_colectiva

ROUTE = "/ecosystem-orgs"


@pytest.fixture
async def site(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> AsyncIterator[ColectivaSite]:
    async with open_colectiva(pool, database, keyring) as opened:
        yield opened


async def test_an_organization_is_registered_and_its_remote_id_kept(site: ColectivaSite) -> None:
    item_id = await site.put(1, tax_id="TES010101AB1", subscription_tier="pro")
    delivery = await site.delivery.deliverer().deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Accepted)
    (organization,) = site.vendor.organizations.values()
    assert (organization.registration.rfc, organization.registration.plan) == ("TES010101AB1", "pro")
    row = await site.delivery.row(item_id)
    assert (row["status"], row["remote_org_id"]) == ("success", organization.id)


async def test_a_deactivation_leaves_the_organization_inactive(site: ColectivaSite) -> None:
    await site.put(1)
    payload = {"organization_name": "Test Practice 1", "email": "practice1@example.test"}
    await site.delivery.put(1, Action.DEACTIVATE, payload)
    deliverer = site.delivery.deliverer()
    while await deliverer.deliver_next():
        pass
    (organization,) = site.vendor.organizations.values()
    assert (organization.registration.billing_status, organization.writes) == ("inactive", 2)


async def test_an_answer_that_was_lost_after_the_commit_is_asked_for_again_under_the_same_key(
    site: ColectivaSite,
) -> None:
    item_id = await site.put()
    site.running.sandbox.script.add(ScriptedCall(route=ROUTE, method="POST", answer=ApiAnswer.LOST))
    deliverer = site.delivery.deliverer()
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Failed)
    assert (await site.delivery.state(item_id))[:2] == ("pending", 1)
    site.delivery.advance(60)
    await deliverer.deliver_next()
    assert (await site.delivery.state(item_id))[:2] == ("success", 2)
    first, second = site.posts
    assert first.idempotency_key == second.idempotency_key
    assert (first.is_committed, second.is_committed, second.is_replayed) == (True, False, True)
    assert site.posts.needless() == []


async def test_a_refused_registration_fails_at_once_with_colectivas_words(site: ColectivaSite) -> None:
    item_id = await site.put(1, email=None)
    delivery = await site.delivery.deliverer().deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Refused)
    status, attempts, error = await site.delivery.state(item_id)
    assert (status, attempts) == ("failed", 1)
    assert "required: owner_email" in (error or "")


async def test_what_exists_already_counts_as_done(site: ColectivaSite) -> None:
    site.vendor.registry.refuses_known = True
    items = [await site.put(1), await site.delivery.put(1, Action.DEACTIVATE, {"organization_name": "Test Practice 1"})]
    deliverer = site.delivery.deliverer()
    await deliverer.deliver_next()
    await site.delivery.put_back(items[0])
    while await deliverer.deliver_next():
        pass
    assert (await site.delivery.row(items[0]))["status"] == "success"


async def test_a_wrong_key_pauses_the_queue_and_the_right_one_is_tried_at_once(site: ColectivaSite) -> None:
    items = [await site.put(number) for number in (1, 2, 3)]
    site.running.sandbox.set_api_key("the-new-key")
    deliverer = site.delivery.deliverer()
    with capture_logs() as logs:
        delivery = await deliverer.deliver_next()
        assert delivery is not None
        assert isinstance(delivery.answer, Halted)
        assert await deliverer.deliver_next() is None
        measure = await site.delivery.queue.measure()
        assert "API key" in (measure.paused_reason or "")
        site.delivery.advance(1)
        await site.change(api_key="the-new-key")
        while await deliverer.deliver_next():
            pass
    assert [entry["event"] for entry in logs].count("outbound_paused") == 1
    assert [entry["event"] for entry in logs].count("outbound_resumed") == 1
    assert [(await site.delivery.state(item))[:2] for item in items] == [("success", 1)] * 3
    assert len(site.posts) == 4


async def test_a_missing_permission_resumes_by_itself_once_it_is_given(site: ColectivaSite) -> None:
    item_id = await site.put()
    site.vendor.registry.may_write = False
    deliverer = site.delivery.deliverer()
    for _ in range(5):
        await deliverer.deliver_next()
        site.delivery.advance(30)
    assert 2 <= len(site.posts) <= 3  # one a minute
    site.vendor.registry.may_write = True
    site.delivery.advance(60)
    await deliverer.deliver_next()
    assert (await site.delivery.state(item_id))[:2] == ("success", 1)


async def test_a_limit_of_colectivas_is_waited_for_without_an_attempt(site: ColectivaSite) -> None:
    items = [await site.put(number) for number in (1, 2)]
    call = ScriptedCall(route=ROUTE, method="POST", answer=ApiAnswer.STATUS, status=429, retry_after_s=40)
    site.running.sandbox.script.add(call)
    deliverer = site.delivery.deliverer()
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Deferred)
    site.delivery.advance(35)
    assert await deliverer.deliver_next() is None
    assert len(site.posts) == 1
    other = site.delivery.deliverer()  # another process: the ledger is closed for it as well
    closed = await other.deliver_next()
    assert closed is not None
    assert isinstance(closed.answer, Deferred)
    assert len(site.posts) == 1
    site.delivery.advance(9)
    while await deliverer.deliver_next():
        pass
    assert [(await site.delivery.state(item))[:2] for item in items] == [("success", 1)] * 2


async def test_a_place_in_our_own_limit_that_is_near_is_waited_for_within_the_attempt(site: ColectivaSite) -> None:
    await site.change(settings={"calls_per_minute": "2"})
    items = [await site.put(number) for number in (1, 2, 3)]
    deliverer = site.delivery.deliverer()
    for _ in range(2):
        await deliverer.deliver_next()
    site.delivery.advance(61)
    delivery = await deliverer.deliver_next()
    assert delivery is not None
    assert isinstance(delivery.answer, Accepted)
    assert await site.delivery.state(items[2]) == ("success", 1, None)


async def test_our_own_limit_slows_the_queue_and_burns_no_attempt(site: ColectivaSite) -> None:
    await site.change(settings={"calls_per_minute": "2"})
    items = [await site.put(number) for number in range(5)]
    deliverer = site.delivery.deliverer()
    posts = []
    for _ in range(4):
        while await deliverer.deliver_next():
            pass
        posts.append(len(site.posts))
        site.delivery.advance(63)
    assert posts == [2, 4, 5, 5]
    assert [(await site.delivery.state(item))[:2] for item in items] == [("success", 1)] * 5


@pytest.mark.parametrize("status", [500, 503, 408])
async def test_a_failing_colectiva_gets_three_attempts_an_item(site: ColectivaSite, status: int) -> None:
    item_id = await site.put()
    call = ScriptedCall(route=ROUTE, method="POST", times=None, answer=ApiAnswer.STATUS, status=status)
    site.running.sandbox.script.add(call)
    deliverer = site.delivery.deliverer()
    for _ in range(20):
        await deliverer.deliver_next()
        site.delivery.advance(60)
    assert (await site.delivery.state(item_id))[:2] == ("failed", 3)
    assert len(site.posts) == 3
    assert len({post.idempotency_key for post in site.posts}) == 1


async def test_a_page_for_people_is_no_success(site: ColectivaSite) -> None:
    item_id = await site.put()
    site.running.sandbox.script.add(ScriptedCall(route=ROUTE, method="POST", answer=ApiAnswer.HTML, status=200))
    deliverer = site.delivery.deliverer()
    await deliverer.deliver_next()
    assert (await site.delivery.state(item_id))[:2] == ("pending", 1)
    site.delivery.advance(60)
    await deliverer.deliver_next()
    assert (await site.delivery.state(item_id))[:2] == ("success", 2)


async def test_where_nobody_listens_no_attempt_is_burnt_and_the_right_address_is_tried_at_once(
    site: ColectivaSite,
) -> None:
    item_id = await site.put()
    await site.change(base_url=f"http://127.0.0.1:{free_ports(1)[0]}")
    deliverer = site.delivery.deliverer()
    for _ in range(10):
        await deliverer.deliver_next()
        site.delivery.advance(deliverer.resting_s)
    assert (await site.delivery.state(item_id))[:2] == ("pending", 0)
    await deliverer.deliver_next()
    assert deliverer.resting_s == 60
    await site.change(base_url=site.running.api_url)
    await deliverer.deliver_next()
    assert (await site.delivery.state(item_id))[:2] == ("success", 1)
