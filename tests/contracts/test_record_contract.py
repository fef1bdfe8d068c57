"""What every vendor must do whose records we copy: one suite over them, against their pretend services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from contracts.fuzzed import as_json, webhook_samples
from contracts.vendor_accounts import CONTEXT, READ_BEGAN_MS, Service, check_orderly, serving
from eventsync.domain.changes import Delete, Refetch, Source, Upsert
from eventsync.domain.errors import EventsyncError, Transient
from eventsync.sandbox import Faults
from eventsync.vendorkit.vendor import RecordVendor, VendorClient
from eventsync.vendors import load_vendors, record_vendors

VENDORS = record_vendors(load_vendors())


@dataclass
class Account:
    """The pretend service, and our client of it."""

    service: Service
    client: VendorClient


@pytest.fixture(params=sorted(VENDORS))
def vendor(request: pytest.FixtureRequest) -> RecordVendor:
    return VENDORS[request.param]


@asynccontextmanager
async def opened(vendor: RecordVendor, **options: Any) -> AsyncIterator[Account]:
    async with serving(vendor, **options) as service:
        yield Account(service, vendor.client(service.connection, service.access))


@pytest.fixture
async def account(vendor: RecordVendor) -> AsyncIterator[Account]:
    async with opened(vendor) as made:
        yield made


def test_every_sample_of_a_webhook_is_about_a_record(vendor: RecordVendor) -> None:
    for sample in webhook_samples(vendor):
        reading = vendor.read_webhook(as_json(sample), {}, CONTEXT)
        assert reading.subject in {change.entity for change in reading.changes}


async def test_every_webhook_that_the_vendor_sends_tells_of_a_change(account: Account) -> None:
    for reading in account.service.webhooks_of(*account.service.fired_actions):
        assert reading.changes


async def test_what_a_webhook_said_is_what_the_api_says(account: Account) -> None:
    service = account.service
    for action in service.fired_actions:
        for reading in service.webhooks_of(action)[-1:]:
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
    assert service.budget.reserved == service.budget.finished > 0


@pytest.mark.parametrize("faults", [Faults(api_error=1.0), Faults(api_html=1.0)])
async def test_a_vendor_in_trouble_is_transient_and_never_an_answer(vendor: RecordVendor, faults: Faults) -> None:
    async with opened(vendor) as account:
        (reading, *_) = account.service.webhooks_of(account.service.fired_actions[0])
        assert reading.subject is not None
        account.service.running.sandbox.gate.faults = faults
        with pytest.raises(EventsyncError) as caught:
            await account.client.refetch(reading.subject, sequence=1, read_began_ms=READ_BEGAN_MS)
        assert isinstance(caught.value, Transient)
