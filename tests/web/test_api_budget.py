"""The budget over the management API: what an organization's own connections spent."""

from __future__ import annotations

from datetime import UTC, datetime

from eventsync.crypto import fingerprint
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.tenants import Connections
from eventsync.vendorkit.budget import Purpose
from eventsync.vendors import load_vendors
from web.api_site import NOW, Site


async def test_an_organization_sees_what_its_own_connections_spent(site: Site) -> None:
    key = fingerprint("key-of-practice-1")
    ledger = PostgresBudget(site.pool, key, BudgetLimits(10, 500), lambda: datetime.now(UTC))
    for purpose in (Purpose.SWEEP, Purpose.SWEEP, Purpose.MANUAL):
        await ledger.reserve(purpose)
    (item,) = (await site.get("/api/v1/budget", site.practice.viewer)).json["items"]
    assert item["connection_id"] == str(site.practice.connection_id)
    assert item["spent_last_minute"] == item["spent_last_day"] == {"sweep": 2, "manual": 1}
    assert (item["left_this_minute"], item["left_today"], item["api_key"]) == (7, 497, key)
    (other,) = (await site.get("/api/v1/budget", site.other.viewer)).json["items"]
    assert (other["spent_last_day"], other["left_today"]) == ({}, 500)
    assert len((await site.get("/api/v1/budget", site.admin)).json["items"]) == 2


async def test_a_disabled_connection_spends_nothing_and_is_left_out(site: Site) -> None:
    connections = Connections(site.pool, site.keyring, load_vendors())
    await connections.disable(site.practice.connection_id, None, NOW)
    assert (await site.get("/api/v1/budget", site.practice.viewer)).json == {"items": []}


async def test_no_answer_holds_an_api_key(site: Site) -> None:
    answer = await site.get("/api/v1/budget", site.admin)
    assert "key-of-practice" not in str(answer.json)
