from typing import Any

import pytest

from eventsync.sandbox import Faults, NotPossibleError, TrafficMix
from sandbox.sandbox_receiver import Receiver, calling, receiving, small

FAULTS = Faults(duplicate=0.2, reorder=0.2, delay=0.05, delay_min_s=0.05, delay_max_s=0.3)


def newest_by_id(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """What a receiver knows that keeps, of each appointment, the message with the latest LastModified."""
    newest: dict[str, dict[str, Any]] = {}
    for body in receiver.bodies("appointment"):
        known = newest.get(body["Appointment"]["Id"])
        if known is None or body["Appointment"]["LastModified"] >= known["Appointment"]["LastModified"]:
            newest[body["Appointment"]["Id"]] = body
    return newest


async def test_a_burst_without_silent_edits_tells_the_whole_truth_despite_doubles_and_disorder() -> None:
    async with (
        receiving() as receiver,
        calling(small(appointments=0, faults=FAULTS, webhook_targets=receiver.targets)) as caller,
    ):
        result = (await caller.control("/burst", {"webhooks": 3_000})).json
        assert (result["webhooks"], result["idle"]) == (3_000, True)
        assert result["stats"]["webhooks"] == 3_000
        assert len(receiver.posts) == 3_000 + result["stats"]["duplicated"]
        truth = await caller.truth("appointment")
        told = newest_by_id(receiver)
        assert told.keys() == truth.keys()
        for key, fact in truth.items():
            assert (told[key]["EventType"] == "AppointmentDeleted") == fact["deleted"]
            assert told[key]["Appointment"] == {name: fact["data"][name] for name in told[key]["Appointment"]}
        notes = await caller.truth("note")
        assert {body["NoteId"] for body in receiver.bodies("note")} == set(notes)


async def test_a_burst_may_be_limited_to_kinds_and_may_hold_silent_changes() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        result = (await caller.control("/burst", {"webhooks": 200, "kinds": ["appointment"], "silent_share": 0.5})).json
        assert {post.kind for post in receiver.posts} == {"appointment"}
        assert len(receiver.posts) == 200
        assert result["actions"] > 250
        assert result["stats"]["actions"]["edit"] > 0


async def test_the_truth_streams_every_record_with_its_kind() -> None:
    async with calling(small(clients=30, appointments=450)) as caller:
        await caller.control("/actions", {"action": "delete"})
        facts = await caller.truth("appointment")
        assert len(facts) == 450
        assert sum(fact["deleted"] for fact in facts.values()) == 1
        assert {len(fact["data"]) for fact in facts.values()} == {49}
        everything = (await caller.control("/truth")).text.splitlines()
        records = (await caller.control("/stats")).json["records"]
        assert len(everything) == sum(records.values())
        assert (await caller.control("/truth?kind=unknown")).status == 400


async def test_actions_say_what_they_did_and_targets_can_be_set_later() -> None:
    async with receiving() as receiver, calling(small()) as caller:
        assert (await caller.control("/burst", {"webhooks": 1})).status == 409
        silent = (await caller.control("/actions", {"action": "book"})).json
        assert silent["webhooks"] == ["AppointmentCreated"]
        answer = await caller.control("/webhook-targets", {"appointment": receiver.targets["appointment"]})
        assert answer.json == {"webhook_kinds_with_target": ["appointment"]}
        booked = (await caller.control("/actions", {"action": "book", "by": "client"})).json
        (post,) = await receiver.wait_for(1)
        assert post.body["Appointment"]["Id"] == booked["record_id"]
        stats = (await caller.control("/stats")).json
        assert (stats["untargeted"], stats["sent"]) == (1, 1)


async def test_traffic_runs_until_quiesced_and_then_nothing_is_on_its_way() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        started = await caller.control("/traffic", {"rate_per_s": 200, "silent_share": 0.2})
        assert started.json == {"traffic_runs": True}
        await receiver.wait_for(30)
        assert (await caller.control("/quiesce", {})).json == {"idle": True, "unanswered": 0}
        stats = (await caller.control("/stats")).json
        assert stats["traffic_runs"] is False
        assert stats["sent"] == len(receiver.posts) == stats["answers"]["200"]
        assert set(stats["actions"]) & {"edit", "edit_client", "add_client", "send_intake"}


async def test_traffic_can_be_started_with_the_options_and_stopped_by_rate_0() -> None:
    async with receiving() as receiver:
        options = small(rate_per_s=100, silent_share=0.0, webhook_targets=receiver.targets)
        async with calling(options) as caller:
            await receiver.wait_for(5)
            assert (await caller.control("/traffic", {"rate_per_s": 0})).json == {"traffic_runs": False}


async def test_the_same_seed_and_burst_send_the_same_bodies() -> None:
    async def appointments_of(seed: int) -> list[tuple[str, str, str]]:
        async with receiving() as receiver, calling(small(seed=seed, webhook_targets=receiver.targets)) as caller:
            await caller.control("/burst", {"webhooks": 300, "kinds": ["appointment"]})
            return sorted(
                (body["EventType"], body["Appointment"]["Id"][8:], body["Appointment"]["ClientName"])
                for body in receiver.bodies("appointment")
            )

    assert await appointments_of(5) == await appointments_of(5)
    assert await appointments_of(5) != await appointments_of(6)


@pytest.mark.parametrize(
    ("path", "value", "status", "word"),
    [
        ("/faults", {"drop": 2}, 400, "share"),
        ("/faults", {"dropp": 0.1}, 400, "unknown"),
        ("/burst", {}, 400, "webhooks"),
        ("/traffic", {"rate_per_s": -1}, 400, "rate_per_s"),
        ("/traffic", {"rate_per_s": 1, "silent_share": 1}, 400, "silent_share"),
        ("/webhook-targets", {"plant": "http://127.0.0.1:1/"}, 400, "unknown"),
        ("/actions", {"action": "levitate"}, 409, "known"),
        ("/actions", {}, 400, "action"),
        ("/actions", {"action": "cancel", "id": "nobody"}, 409, "nobody"),
        ("/actions", ["book"], 400, "object"),
        ("/quota", {"window": "lunar"}, 400, "sliding"),
    ],
)
async def test_a_wrong_control_request_says_what_is_wrong(path: str, value: Any, status: int, word: str) -> None:
    async with calling(small()) as caller:
        answer = await caller.control(path, value)
        assert answer.status == status
        assert word in answer.json["error"]


async def test_in_process_use_needs_no_http_and_errors_pass_unwrapped() -> None:
    async def use(receiver: Receiver) -> None:
        async with calling(small(webhook_targets=receiver.targets)) as caller:
            sandbox = caller.running.sandbox
            sandbox.act("book", by="staff")
            assert (await sandbox.burst(20)).webhooks == 20
            assert await sandbox.quiesce()
            assert len(receiver.posts) == 21
            sandbox.traffic.act_by_chance(TrafficMix(silent_share=0, kinds=["nothing"]))

    async with receiving() as receiver:
        with pytest.raises(NotPossibleError, match="no action"):
            await use(receiver)
