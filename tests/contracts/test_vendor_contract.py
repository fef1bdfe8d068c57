"""What every vendor must do: one suite over all folders in vendors/, against the vendor's own pretend service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from eventsync.domain.changes import Absence, Change, Delete, Refetch, Source, Upsert
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.errors import EventsyncError, Misconfigured, Rejected, Transient
from eventsync.domain.records import content_hash
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.sandbox import Faults, QuotaLimits, RunningSandbox, SandboxOptions, serve
from eventsync.vendorkit.budget import Purpose, ReservationId
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import RecordVendor, VendorClient
from eventsync.vendors import load_vendors, record_vendors

VENDORS = record_vendors(load_vendors())
CONNECTION_ID = ConnectionId(UUID(int=1))
CONTEXT = WebhookContext(CONNECTION_ID)
START_MS = 1_790_000_000_000  # September 2026
READ_BEGAN_MS = START_MS + 1_000
NO_QUOTA = QuotaLimits(per_minute=None, per_day=None)


@dataclass
class CountingBudget:
    """Grants every call, and counts."""

    reserved: int = 0
    finished: int = 0
    refused_s: list[float] = field(default_factory=list)

    async def reserve(self, purpose: Purpose) -> ReservationId:
        assert purpose in Purpose
        self.reserved += 1
        return ReservationId(self.reserved)

    async def finish(self, reservation: ReservationId) -> None:
        assert reservation <= self.reserved
        self.finished += 1

    async def refused(self, retry_after_s: float) -> None:
        self.refused_s.append(retry_after_s)


@dataclass
class Account:
    """A vendor's pretend service with our client on it."""

    vendor: RecordVendor
    running: RunningSandbox
    client: VendorClient
    budget: CountingBudget

    def webhooks_of(self, *actions: str) -> list[WebhookReading]:
        """Do each action at the vendor, and read the webhooks that it would send."""
        effects = [self.running.sandbox.act(action) for action in actions]
        return [self.vendor.read_webhook(hook.body, {}, CONTEXT) for effect in effects for hook in effect.webhooks]


@pytest.fixture(params=sorted(VENDORS))
def vendor(request: pytest.FixtureRequest) -> RecordVendor:
    return VENDORS[request.param]


@asynccontextmanager
async def opened(vendor: RecordVendor, api_key: str | None = None, **options: Any) -> AsyncIterator[Account]:
    values: dict[str, Any] = {"clients": 20, "appointments": 60, "start_ms": START_MS, "quota": NO_QUOTA} | options
    chosen = SandboxOptions(vendor=vendor.name, **values)
    budget = CountingBudget()
    async with serve(chosen) as running, aiohttp.ClientSession() as session:
        connection = Connection(
            CONNECTION_ID, 1, OrganizationId(UUID(int=2)), vendor.name, running.api_url, api_key or running.api_key
        )
        client = vendor.client(connection, VendorHttp(session, budget, retry_base_s=0.0))
        yield Account(vendor, running, client, budget)


@pytest.fixture
async def account(vendor: RecordVendor) -> AsyncIterator[Account]:
    async with opened(vendor) as made:
        yield made


def webhook_samples(vendor: RecordVendor) -> dict[str, bytes]:
    folder = resources.files(f"eventsync.vendors.{vendor.name}") / "samples"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if not entry.name.startswith("api_")}


def fired_actions(account: Account) -> list[str]:
    return [name for name, action in account.running.sandbox.vendor.actions.items() if action.kind is not None]


def check_orderly(changes: Sequence[Change]) -> None:
    for change in changes:
        assert change.entity.connection_id == CONNECTION_ID
        assert change.entity.external_id
        if isinstance(change, Upsert | Delete):
            assert change.version.content_hash == content_hash(change.content)
            assert change.version.deleted == isinstance(change, Delete)
            assert change.version.to_bytes()


def test_a_vendor_is_data_that_makes_sense(vendor: RecordVendor) -> None:
    assert VENDORS[vendor.name] is vendor
    assert vendor.default_base_url.startswith("https://")
    assert not vendor.default_base_url.endswith("/")
    assert vendor.limits.calls_per_minute > 0


def test_every_sample_of_a_webhook_is_read_the_same_each_time(vendor: RecordVendor) -> None:
    samples = webhook_samples(vendor)
    assert samples
    for body in samples.values():
        reading = vendor.read_webhook(body, {}, CONTEXT)
        assert reading == vendor.read_webhook(body, {"User-Agent": "another", "Content-Type": "text/plain"}, CONTEXT)
        assert reading.subject in {change.entity for change in reading.changes}
        check_orderly(reading.changes)
        for change in reading.changes:
            assert not isinstance(change, Absence)
            if isinstance(change, Upsert | Delete):
                assert (change.version.source, change.version.read_began_ms) == (Source.WEBHOOK, 0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"\0", b"<html>", b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_body_that_is_no_webhook_is_rejected_with_a_reason(vendor: RecordVendor, body: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        vendor.read_webhook(body, {}, CONTEXT)
    assert caught.value.reason.isidentifier()


async def test_every_webhook_that_the_vendor_sends_is_understood(account: Account) -> None:
    actions = fired_actions(account)
    readings = account.webhooks_of(*actions)
    assert len(readings) >= len(actions)
    for reading in readings:
        assert reading.changes
        check_orderly(reading.changes)


async def test_what_a_webhook_said_is_what_the_api_says(account: Account) -> None:
    for action in fired_actions(account):
        for reading in account.webhooks_of(action)[-1:]:
            assert reading.subject is not None
            read = await account.client.refetch(reading.subject, sequence=3, read_began_ms=READ_BEGAN_MS)
            check_orderly(read)
            by_webhook, by_api = reading.changes[0], read[0]
            assert by_api.entity == reading.subject
            if isinstance(by_webhook, Delete):
                assert not isinstance(by_api, Upsert)
            else:
                assert isinstance(by_api, Upsert)
                assert (by_api.version.source, by_api.version.read_began_ms) == (Source.API, READ_BEGAN_MS)
            if isinstance(by_webhook, Upsert) and isinstance(by_api, Upsert):
                assert by_api.content == by_webhook.content
                assert by_api.version > by_webhook.version  # the richer source wins at the same vendor time
            if isinstance(by_webhook, Refetch):
                assert isinstance(by_api, Upsert)
                assert by_api.version.position == 3
    assert account.budget.reserved == account.budget.finished > 0


async def test_the_account_proves_its_credentials(account: Account) -> None:
    await account.client.check_credentials()
    assert account.budget.reserved == 1


async def test_a_wrong_key_is_a_matter_of_configuration(vendor: RecordVendor) -> None:
    async with opened(vendor, api_key="wrong-key") as account:
        with pytest.raises(Misconfigured) as caught:
            await account.client.check_credentials()
        assert "wrong-key" not in str(caught.value)


async def test_the_vendors_limit_closes_the_budget(vendor: RecordVendor) -> None:
    async with opened(vendor, quota=QuotaLimits(per_minute=1, per_day=None)) as account:
        await account.client.check_credentials()
        with pytest.raises(Transient) as caught:
            await account.client.check_credentials()
        assert account.budget.refused_s == [caught.value.retry_after_s]


@pytest.mark.parametrize("faults", [Faults(api_error=1.0), Faults(api_html=1.0)])
async def test_a_vendor_in_trouble_is_transient_and_never_an_answer(vendor: RecordVendor, faults: Faults) -> None:
    async with opened(vendor) as account:
        (reading, *_) = account.webhooks_of(fired_actions(account)[0])
        assert reading.subject is not None
        account.running.sandbox.gate.faults = faults
        for call in (
            account.client.check_credentials(),
            account.client.refetch(reading.subject, sequence=1, read_began_ms=READ_BEGAN_MS),
        ):
            with pytest.raises(EventsyncError) as caught:
                await call
            assert isinstance(caught.value, Transient)
