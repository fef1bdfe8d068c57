"""What a Colectiva webhook says: its event's name, and no change."""

from __future__ import annotations

from importlib import resources
from uuid import UUID

import orjson
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Rejected
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.vendors.colectiva.webhook import read_webhook

CONTEXT = WebhookContext(ConnectionId(UUID(int=1)))
SAMPLES = resources.files("eventsync.vendors.colectiva") / "samples"


def read(body: bytes) -> WebhookReading:
    return read_webhook(body, {}, CONTEXT)


@pytest.mark.parametrize(
    ("sample", "event_type"),
    [
        ("escrow_created.json", "escrow.created"),
        ("escrow_released.json", "escrow.released"),
        ("wallet_created.json", "wallet.created"),
        ("payout_completed.json", "payout.completed"),
        ("kyc_approved.json", "kyc.approved"),
    ],
)
def test_a_webhook_is_known_by_its_event_and_changes_nothing(sample: str, event_type: str) -> None:
    assert read((SAMPLES / sample).read_bytes()) == WebhookReading(event_type, subject=None, changes=())


@pytest.mark.parametrize("body", [{"event": "vault.opened"}, {"event": " vault.opened ", "data": [1], "more": None}])
def test_an_event_that_nobody_knows_is_kept_as_well(body: dict[str, object]) -> None:
    assert read(orjson.dumps(body)) == WebhookReading("vault.opened")


@pytest.mark.parametrize("body", [b"{}", b'{"event":null}', b'{"event":"  "}', b'{"data":{"id":"1"}}'])
def test_a_webhook_without_an_event_is_rejected(body: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        read(body)
    assert caught.value.reason == "missing_field"


@pytest.mark.parametrize("event", [True, [], {"name": "escrow.created"}, "e" * 101])
def test_a_webhook_whose_event_is_no_name_is_rejected(event: object) -> None:
    with pytest.raises(Rejected) as caught:
        read(orjson.dumps({"event": event}))
    assert caught.value.reason == "invalid_field"


@pytest.mark.parametrize(("body", "reason"), [(b"", "empty_body"), (b"[]", "not_an_object"), (b"{", "not_json")])
def test_what_is_no_object_is_rejected_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(body)
    assert caught.value.reason == reason


def test_the_longest_name_of_an_event_is_kept_whole() -> None:
    assert read(orjson.dumps({"event": "e" * 100})).event_type == "e" * 100
