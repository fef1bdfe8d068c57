"""What every registry must do that is told of our organizations: one suite over them, against their pretend services.

The pretend service counts what it wrote, so that a repeat that had an effect is seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from contracts.vendor_accounts import Service, serving
from eventsync.domain.deliveries import Accepted, Action, Deferred, Failed, Halted, ItemId, OutboundItem, Refused
from eventsync.sandbox import ApiAnswer, Faults, QuotaLimits, ScriptedCall
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.registry import Registry, RegistryVendor
from eventsync.vendors import load_vendors, registry_vendors

VENDORS = registry_vendors(load_vendors())
ORG_ID = "plenura_0000000000004000800000000000000c"
ITEM = OutboundItem(
    id=ItemId(UUID(int=7)),
    entity_type="practice",
    ecosystem_org_id=ORG_ID,
    action=Action.REGISTER,
    payload={"organization_name": "Test Practice 12", "email": "practice12@example.test", "is_active": True},
    idempotency_key=UUID(int=8),
)


@dataclass
class Account:
    """The pretend service, and our account at it."""

    service: Service
    registry: Registry

    @property
    def revision(self) -> int:
        """How often the service wrote."""
        return self.service.running.sandbox.vendor.revision

    def script(self, answer: ApiAnswer, **how: Any) -> None:
        """Answer the next call so."""
        self.service.running.sandbox.gate.script.add(ScriptedCall(route="*", answer=answer, **how))


@pytest.fixture(params=sorted(VENDORS))
def vendor(request: pytest.FixtureRequest) -> RegistryVendor:
    return VENDORS[request.param]


@asynccontextmanager
async def opened(vendor: RegistryVendor, api_key: str | None = None, **options: Any) -> AsyncIterator[Account]:
    async with serving(vendor, api_key, **options) as service:
        yield Account(service, vendor.registry(service.connection, service.access))


@pytest.fixture
async def account(vendor: RegistryVendor) -> AsyncIterator[Account]:
    async with opened(vendor) as made:
        yield made


async def test_an_item_is_taken_once_and_gets_the_id_that_it_has_there(account: Account) -> None:
    answer = await account.registry.deliver(ITEM)
    assert isinstance(answer, Accepted)
    assert answer.remote_org_id
    assert account.revision == 1
    assert account.service.budget.reserved == account.service.budget.finished == 1


async def test_what_would_be_sent_is_told_without_a_call(account: Account) -> None:
    assert ORG_ID in account.registry.body_of(ITEM).values()
    assert account.registry.body_of(ITEM) == account.registry.body_of(ITEM)
    assert account.service.budget.reserved == 0


async def test_each_action_leaves_one_organization_in_its_last_state(account: Account) -> None:
    for number, action in enumerate(Action, start=1):
        answer = await account.registry.deliver(replace(ITEM, action=action, idempotency_key=UUID(int=number)))
        assert isinstance(answer, Accepted)
    (fact,) = account.service.running.sandbox.vendor.truth(None)
    assert fact.data["billing"]["status"] == "inactive"


async def test_the_same_key_again_is_taken_and_writes_nothing(account: Account) -> None:
    first, again = await account.registry.deliver(ITEM), await account.registry.deliver(ITEM)
    assert isinstance(first, Accepted)
    assert again == first
    assert account.revision == 1


@pytest.mark.parametrize("loss", [ApiAnswer.LOST, ApiAnswer.CUT_MIDWAY])
async def test_an_answer_that_was_lost_after_the_effect_is_a_failure_and_its_repeat_is_taken(
    account: Account, loss: ApiAnswer
) -> None:
    account.script(loss)
    lost = await account.registry.deliver(ITEM)
    assert isinstance(lost, Failed)
    assert account.revision == 1
    again = await account.registry.deliver(ITEM)
    assert isinstance(again, Accepted)
    assert again.remote_org_id
    assert account.revision == 1


async def test_a_connection_that_ends_without_an_answer_is_a_failure_and_asked_once(account: Account) -> None:
    account.script(ApiAnswer.CUT)
    assert isinstance(await account.registry.deliver(ITEM), Failed)
    assert isinstance(await account.registry.deliver(ITEM), Accepted)
    assert sum(account.service.running.sandbox.stats.api_calls.values()) == 2


async def test_a_wrong_key_halts_the_queue_and_is_not_told(vendor: RegistryVendor) -> None:
    async with opened(vendor, api_key="wrong-key") as account:
        answer = await account.registry.deliver(ITEM)
        assert isinstance(answer, Halted)
        assert "wrong-key" not in answer.message
        assert account.revision == 0


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_account_halts_the_queue_whatever_the_page(account: Account, status: int) -> None:
    account.script(ApiAnswer.HTML, status=status)
    assert isinstance(await account.registry.deliver(ITEM), Halted)


async def test_the_limit_of_calls_defers_the_item_and_closes_the_budget(vendor: RegistryVendor) -> None:
    async with opened(vendor, quota=QuotaLimits(per_minute=1, per_day=None)) as account:
        assert isinstance(await account.registry.deliver(ITEM), Accepted)
        answer = await account.registry.deliver(ITEM)
        assert isinstance(answer, Deferred)
        assert account.service.budget.refused_s == [answer.retry_after_s]


@pytest.mark.parametrize("faults", [Faults(api_error=1.0), Faults(api_html=1.0), Faults(api_lost=1.0)])
async def test_trouble_there_never_looks_like_a_success_or_a_refusal(vendor: RegistryVendor, faults: Faults) -> None:
    async with opened(vendor, faults=faults) as account:
        for _ in range(4):  # a maintenance page comes with 200 or 503 by chance
            assert isinstance(await account.registry.deliver(ITEM), Failed)


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refusal_is_for_good_and_in_the_registrys_words(account: Account, status: int) -> None:
    account.script(ApiAnswer.STATUS, status=status)
    answer = await account.registry.deliver(ITEM)
    assert isinstance(answer, Refused)
    assert "An error has occurred." in answer.message


async def test_a_wish_to_come_back_later_is_passed_on(account: Account) -> None:
    account.script(ApiAnswer.STATUS, status=503, retry_after_s=30)
    answer = await account.registry.deliver(ITEM)
    assert isinstance(answer, Failed)
    assert answer.retry_after_s == 30.0


async def test_a_registry_that_cannot_be_reached_defers_the_item(vendor: RegistryVendor) -> None:
    async with serving(vendor) as service:
        connection, budget = service.connection, service.budget
    async with aiohttp.ClientSession() as session:  # the service has ended
        answer = await vendor.registry(connection, VendorHttp(session, budget)).deliver(ITEM)
    assert isinstance(answer, Deferred)
    assert answer.retry_after_s is None


@pytest.mark.parametrize("payload", [{}, {"organization_name": ["wrong"], "email": 17, "is_active": "perhaps"}])
async def test_a_payload_that_a_person_broke_is_refused_there_and_raises_nothing(
    account: Account, payload: dict[str, Any]
) -> None:
    assert isinstance(await account.registry.deliver(replace(ITEM, payload=payload)), Refused)
    assert account.revision == 0
