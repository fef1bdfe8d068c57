"""What every vendor must do, of whatever kind: one suite over all folders in vendors/, against their pretend services.

test_record_contract and test_registry_contract say what else each kind must do.
"""

from __future__ import annotations

import re
from importlib import resources

import pytest

from contracts.vendor_accounts import CONTEXT, Service, check_orderly, serving
from eventsync.domain.changes import Absence, Delete, Source, Upsert
from eventsync.domain.connections import HmacCheck
from eventsync.domain.errors import EventsyncError, Misconfigured, Rejected, Transient
from eventsync.sandbox import Faults, QuotaLimits, Signing
from eventsync.vendorkit.registry import Registry, RegistryVendor
from eventsync.vendorkit.signing import verify
from eventsync.vendorkit.vendor import RecordVendor, Vendor, VendorClient
from eventsync.vendors import load_vendors

VENDORS = load_vendors()
SIGNING = sorted(name for name, vendor in VENDORS.items() if vendor.webhook_signature is not None)


@pytest.fixture(params=sorted(VENDORS))
def vendor(request: pytest.FixtureRequest) -> Vendor:
    return VENDORS[request.param]


def account_of(service: Service) -> VendorClient | Registry:
    match service.vendor:
        case RecordVendor() as vendor:
            return vendor.client(service.connection, service.access)
        case RegistryVendor() as vendor:
            return vendor.registry(service.connection, service.access)
        case _:
            raise AssertionError("a vendor has either records or a registry")


def webhook_samples(vendor: Vendor) -> dict[str, bytes]:
    folder = resources.files(f"eventsync.vendors.{vendor.name}") / "samples"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if not entry.name.startswith("api_")}


def test_a_vendor_is_data_that_makes_sense(vendor: Vendor) -> None:
    assert VENDORS[vendor.name] is vendor
    assert vendor.default_base_url.startswith("https://")
    assert not vendor.default_base_url.endswith("/")
    assert vendor.limits.calls_per_minute > 0
    assert vendor.limits.calls_per_day is None or vendor.limits.calls_per_day > 0
    assert isinstance(vendor, RecordVendor) != isinstance(vendor, RegistryVendor)


def test_every_sample_of_a_webhook_is_read_the_same_each_time(vendor: Vendor) -> None:
    samples = webhook_samples(vendor)
    assert samples
    for body in samples.values():
        reading = vendor.read_webhook(body, {}, CONTEXT)
        assert reading == vendor.read_webhook(body, {"User-Agent": "another", "Content-Type": "text/plain"}, CONTEXT)
        assert reading.event_type
        check_orderly(reading.changes)
        for change in reading.changes:
            assert not isinstance(change, Absence)
            if isinstance(change, Upsert | Delete):
                assert (change.version.source, change.version.read_began_ms) == (Source.WEBHOOK, 0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b"[]", b"null", b"\xff\xfe", b"\0", b"<html>", b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_body_that_is_no_webhook_is_rejected_with_a_reason(vendor: Vendor, body: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        vendor.read_webhook(body, {}, CONTEXT)
    assert caught.value.reason.isidentifier()


async def test_every_webhook_that_the_vendor_sends_is_understood(vendor: Vendor) -> None:
    async with serving(vendor) as service:
        readings = service.webhooks_of(*service.fired_actions)
        assert len(readings) >= len(service.fired_actions) > 0
        for reading in readings:
            assert reading.event_type
            check_orderly(reading.changes)


@pytest.mark.parametrize("name", SIGNING)
async def test_a_webhook_that_the_vendor_signed_is_verified_in_the_form_that_the_adapter_names(name: str) -> None:
    vendor = VENDORS[name]
    form = vendor.webhook_signature
    assert form is not None
    assert re.fullmatch(r"[a-z0-9-]+", form.header)
    check = HmacCheck(form.header, ("shared secret",), prefix=form.prefix)
    async with serving(vendor) as service:
        senders_form = service.running.sandbox.vendor.signature_form
    for body in webhook_samples(vendor).values():
        headers = Signing(secret="shared secret").headers(body, senders_form)
        assert verify(check, headers, body)
        assert not verify(check, headers, body + b" ")


async def test_the_account_proves_its_credentials(vendor: Vendor) -> None:
    async with serving(vendor) as service:
        revision = service.running.sandbox.vendor.revision
        await account_of(service).check_credentials()
        assert service.budget.reserved == service.budget.finished == 1
        assert service.running.sandbox.vendor.revision == revision


async def test_a_wrong_key_is_a_matter_of_configuration(vendor: Vendor) -> None:
    async with serving(vendor, api_key="wrong-key") as service:
        with pytest.raises(Misconfigured) as caught:
            await account_of(service).check_credentials()
        assert "wrong-key" not in str(caught.value)


async def test_the_vendors_limit_closes_the_budget(vendor: Vendor) -> None:
    async with serving(vendor, quota=QuotaLimits(per_minute=1, per_day=None)) as service:
        account = account_of(service)
        await account.check_credentials()
        with pytest.raises(Transient) as caught:
            await account.check_credentials()
        assert service.budget.refused_s == [caught.value.retry_after_s]


@pytest.mark.parametrize("faults", [Faults(api_error=1.0), Faults(api_html=1.0), Faults(api_lost=1.0)])
async def test_a_vendor_in_trouble_proves_nothing_and_blames_nobody(vendor: Vendor, faults: Faults) -> None:
    async with serving(vendor, faults=faults) as service:
        for _ in range(4):  # a maintenance page comes with 200 or 503 by chance
            with pytest.raises(EventsyncError) as caught:
                await account_of(service).check_credentials()
            assert isinstance(caught.value, Transient)
