import hashlib
import hmac
from typing import Any

import pytest

from eventsync.sandbox import Faults, Signing, TrafficMix
from sandbox.colectiva_app import marketplace, registering
from sandbox.sandbox_receiver import Receiver, receiving

SECRET = "invented-secret"


def target(receiver: Receiver) -> dict[str, str]:
    return {"payment": f"{receiver.base_url}/payment"}


@pytest.mark.parametrize(
    ("actions", "event", "status"),
    [
        (["escrow_created"], "escrow.created", "created"),
        (["escrow_created", "escrow_funded"], "escrow.funded", "funded"),
        (["escrow_created", "escrow_funded", "escrow_released"], "escrow.released", "released"),
        (["escrow_created", "escrow_funded", "escrow_refunded"], "escrow.refunded", "refunded"),
        (["escrow_created", "escrow_funded", "escrow_disputed"], "escrow.disputed", "disputed"),
        (["escrow_created", "escrow_funded", "escrow_disputed", "escrow_refunded"], "escrow.refunded", "refunded"),
        (["wallet_created"], "wallet.created", "active"),
        (["payout_completed"], "payout.completed", "completed"),
        (["kyc_begun", "kyc_approved"], "kyc.approved", "approved"),
        (["kyc_begun", "kyc_rejected"], "kyc.rejected", "rejected"),
    ],
)
async def test_each_step_of_a_payment_fires_its_event(actions: list[str], event: str, status: str) -> None:
    async with receiving() as receiver, registering(marketplace(webhook_targets=target(receiver))) as app:
        for action in actions:
            app.sandbox.act(action)
        assert await app.sandbox.quiesce()
        last = next(post.body for post in receiver.posts if post.body["event"] == event)
        assert set(last) == {"event", "data", "timestamp"}
        assert last["data"]["status"] == status
        assert last["timestamp"].endswith("Z")
        (fact,) = await app.lines("/truth?kind=payment")
        assert fact["data"] == {"type": event.partition(".")[0]} | last["data"]


async def test_an_escrow_tells_its_amount_and_its_booking() -> None:
    async with receiving() as receiver, registering(marketplace(webhook_targets=target(receiver))) as app:
        given = {"amount_cents": 12_345, "booking_id": "booking-1", "user_id": "user-1", "external_id": "x-1"}
        effect = app.sandbox.act("escrow_created", **given)
        assert await app.sandbox.quiesce()
        assert receiver.posts[0].body["data"] == {
            "id": effect.record_id,
            "external_id": "x-1",
            "user_id": "user-1",
            "status": "created",
            "amount_cents": 12_345,
            "metadata": {"booking_id": "booking-1"},
        }


async def test_webhooks_are_signed_in_colectiva_s_form_when_only_a_secret_is_given() -> None:
    async with receiving() as receiver:
        options = marketplace(webhook_targets=target(receiver), signing=Signing(secret=SECRET))
        async with registering(options) as app:
            app.sandbox.act("wallet_created")
            assert await app.sandbox.quiesce()
        (post,) = receiver.posts
        digest = hmac.new(SECRET.encode(), post.raw, hashlib.sha256).hexdigest()
        assert post.headers["x-colectiva-signature"] == f"sha256={digest}"


async def test_another_form_of_signature_takes_the_place_of_its_own() -> None:
    async with receiving() as receiver:
        signing = Signing(secret=SECRET, header="X-Gateway", prefix="")
        async with registering(marketplace(webhook_targets=target(receiver), signing=signing)) as app:
            app.sandbox.act("wallet_created")
            assert await app.sandbox.quiesce()
        (post,) = receiver.posts
        assert post.headers["X-Gateway"] == hmac.new(SECRET.encode(), post.raw, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ({"action": "escrow_funded"}, 409, "needs type escrow, created: none is"),
        ({"action": "escrow_funded", "id": "nobody"}, 409, "not 'nobody'"),
        ({"action": "escrow_created", "amount_cents": 0}, 400, "at least 1"),
        ({"action": "wallet_created", "amount_cents": 5}, 400, "unknown members"),
        ({"action": "revoke_permission", "key": "x"}, 400, "unknown members"),
        ({"action": "escrow_lost"}, 409, "known: escrow_created"),
    ],
)
async def test_a_step_that_cannot_be_taken_says_why_and_changes_nothing(
    value: dict[str, Any], status: int, words: str
) -> None:
    async with registering() as app:
        answer = await app.control("/actions", value)
        assert answer.status == status
        assert words in answer.json["error"]
        assert app.vendor.revision == 0


async def test_the_ledger_tells_each_step_and_what_became_of_its_webhook() -> None:
    async with receiving() as receiver, registering(marketplace(webhook_targets=target(receiver))) as app:
        escrow = app.sandbox.act("escrow_created").record_id
        app.sandbox.act_unheard("escrow_funded", id=escrow)
        quiet = app.sandbox.act("kyc_begun").record_id
        assert await app.sandbox.quiesce()
        entries = await app.lines("/ledger?kind=payment")
        assert [(entry["id"], entry["event"], entry["fate"]) for entry in entries] == [
            (escrow, "escrow.created", "sent"),
            (escrow, "escrow.funded", "dropped"),
            (quiet, None, "silent"),
        ]


async def test_a_burst_fires_exactly_so_many_and_a_mix_has_silent_steps_too() -> None:
    async with receiving() as receiver:
        options = marketplace(webhook_targets=target(receiver), faults=Faults(duplicate=0.2, reorder=0.2))
        async with registering(options) as app:
            result = (await app.control("/burst", {"webhooks": 500, "silent_share": 0.2})).json
            assert (result["webhooks"], result["idle"]) == (500, True)
            assert len(receiver.posts) == 500 + result["stats"]["duplicated"]
            assert result["stats"]["actions"]["kyc_begun"] > 10
            assert len(set(result["stats"]["webhooks_by_event"])) == 9


async def test_traffic_runs_with_the_default_mix() -> None:
    async with (
        receiving() as receiver,
        registering(marketplace(webhook_targets=target(receiver), rate_per_s=200)) as app,
    ):
        await receiver.wait_for(40)
        assert await app.sandbox.quiesce()
        await app.sandbox.start_traffic(200, TrafficMix(silent_share=0, kinds=["payment"]))
        await receiver.wait_for(len(receiver.posts) + 20)
        assert await app.sandbox.quiesce()
        assert not app.vendor.organizations
