from typing import Any

import orjson
import pytest

from eventsync.sandbox import BadArgumentError, Fate, Faults, Ledger, NotPossibleError, SenderLimits, TrafficMix
from eventsync.sandbox.fate import Delivery
from eventsync.sandbox.vendor import RecordChange, Webhook
from sandbox.sandbox_receiver import START_MS, Caller, calling, receiving, small


def change(record_id: str, revision: int = 1) -> RecordChange:
    return RecordChange(revision, "appointment", record_id, START_MS + revision)


def announced(record_id: str, *answers: str, copies: int = 1) -> tuple[Webhook, Delivery]:
    return Webhook("appointment", "AppointmentCanceled", b"", record_id), Delivery(copies, answers=[*answers])


def fate_of(caller: Caller, record_id: str) -> Fate:
    entry = caller.running.sandbox.ledger.latest()["appointment", record_id]
    assert entry.delivery is not None
    return entry.delivery.fate


async def test_an_announced_change_is_told_with_its_webhook_and_what_became_of_it() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        sandbox = caller.running.sandbox
        booked = sandbox.act("book").record_id
        (entry,) = sandbox.ledger.entries()
        assert (entry.action, entry.kind, entry.record_id) == ("book", "appointment", booked)
        assert entry.event == "AppointmentCreated"
        assert fate_of(caller, booked) is Fate.ON_ITS_WAY
        assert await sandbox.quiesce()
        assert fate_of(caller, booked) is Fate.SENT
        assert entry.modified_ms == receiver.posts[0].body["Appointment"]["LastModified"]
        assert entry.as_json()["answers"] == ["200"]


async def test_a_silent_edit_is_told_without_a_webhook() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        sandbox = caller.running.sandbox
        edited, client = sandbox.act("edit").record_id, sandbox.act("edit_client").record_id
        entries = sandbox.ledger.entries()
        assert [(x.key, x.event, x.is_silent) for x in entries] == [
            (("appointment", edited), None, True),
            (("client", client), None, True),
        ]
        assert sandbox.ledger.silent(kind="appointment") == {edited}
        assert sandbox.ledger.lost() == set()


async def test_each_appointment_of_a_series_has_its_own_entry_and_webhook() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        effect = caller.running.sandbox.act("book_series", count=5)
        entries = caller.running.sandbox.ledger.entries()
        assert [entry.record_id for entry in entries] == [hook.record_id for hook in effect.webhooks]
        assert {entry.event for entry in entries} == {"AppointmentCreated"}


async def test_a_webhook_belongs_to_its_record_s_last_change_of_the_action() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        caller.running.sandbox.act("submit_intake")  # sent without a webhook, then submitted with one
        assert [x.event for x in caller.running.sandbox.ledger.entries()] == [None, "Intake Submitted"]


async def test_dropped_and_deliberately_lost_webhooks_are_lost_and_the_next_heard_one_mends_it() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        sandbox = caller.running.sandbox
        one, other = sandbox.act("book").record_id, sandbox.act("book").record_id
        sandbox.act_unheard("reschedule", id=one)
        sandbox.set_faults(Faults(drop=1.0))
        sandbox.act("cancel", id=other)
        sandbox.set_faults(Faults())
        assert await sandbox.quiesce()
        assert [post.body["EventType"] for post in receiver.posts] == ["AppointmentCreated"] * 2
        assert (fate_of(caller, one), fate_of(caller, other)) == (Fate.DROPPED, Fate.DROPPED)
        assert sandbox.ledger.lost() == {one, other}
        sandbox.act("edit", id=one)
        assert (sandbox.ledger.lost(), sandbox.ledger.silent()) == ({one, other}, set())
        sandbox.act("cancel", id=one)
        assert await sandbox.quiesce()
        assert sandbox.ledger.lost() == {other}
        assert sandbox.stats.dropped == 2


async def test_doubles_delays_and_overtaking_are_marked() -> None:
    faults = Faults(duplicate=1.0, delay=1.0, delay_min_s=0, delay_max_s=0)
    async with (
        receiving() as receiver,
        calling(small(webhook_targets=receiver.targets, faults=faults)) as caller,
    ):
        sandbox = caller.running.sandbox
        sandbox.act("book")
        sandbox.set_faults(Faults(reorder=1.0))
        sandbox.act("book")
        assert await sandbox.quiesce()
        first, second = (entry.delivery for entry in sandbox.ledger.entries())
        assert first is not None
        assert second is not None
        assert (first.copies, first.is_duplicated, first.answers) == (2, True, ["200", "200"])
        assert (second.copies, second.is_overtaken, second.is_duplicated) == (1, True, False)


@pytest.mark.parametrize(
    ("answers", "copies", "fate"),
    [
        ((), 0, Fate.UNTARGETED),
        ((), 1, Fate.ON_ITS_WAY),
        (("503",), 2, Fate.ON_ITS_WAY),
        (("503", "204"), 2, Fate.SENT),
        (("503",), 1, Fate.REFUSED),
        (("timeout",), 1, Fate.UNANSWERED),
        (("connection", "timeout"), 2, Fate.UNANSWERED),
        (("untargeted",), 1, Fate.UNTARGETED),
    ],
)
def test_a_webhook_s_fate_follows_from_its_answers(answers: tuple[str, ...], copies: int, fate: Fate) -> None:
    assert Delivery(copies, answers=[*answers]).fate is fate


async def test_refused_and_unanswered_webhooks_count_as_lost() -> None:
    limits = SenderLimits(answer_timeout_s=0.2)
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets, sender=limits)) as caller:
        sandbox = caller.running.sandbox
        receiver.status = 503
        refused = sandbox.act("book").record_id
        assert await sandbox.quiesce()
        receiver.answering.clear()
        unanswered = sandbox.act("book").record_id
        untargeted = sandbox.act("book").record_id
        assert await sandbox.quiesce()
        assert fate_of(caller, refused) is Fate.REFUSED
        assert fate_of(caller, unanswered) is Fate.UNANSWERED
        assert sandbox.ledger.lost() == {refused, unanswered, untargeted}


async def test_what_traffic_left_unheard_is_exactly_what_a_listener_has_wrong() -> None:
    async with (
        receiving() as receiver,
        calling(small(faults=Faults(drop=0.1), webhook_targets=receiver.targets)) as caller,
    ):
        sandbox = caller.running.sandbox
        before = await caller.truth("appointment")
        for _ in range(600):
            sandbox.traffic.act_by_chance(TrafficMix(silent_share=0.2, kinds=["appointment"]))
        assert await sandbox.quiesce()
        known = {key: (fact["data"]["LastModified"], fact["deleted"]) for key, fact in before.items()}
        for body in receiver.bodies("appointment"):
            told = body["Appointment"]["LastModified"], body["EventType"] == "AppointmentDeleted"
            known[body["Appointment"]["Id"]] = max(known.get(body["Appointment"]["Id"], told), told)
        truth = await caller.truth("appointment")
        wrong = {
            key for key, fact in truth.items() if known.get(key) != (fact["data"]["LastModified"], fact["deleted"])
        }
        lost, silent = sandbox.ledger.lost(kind="appointment"), sandbox.ledger.silent(kind="appointment")
        assert lost
        assert silent
        assert not lost & silent
        assert wrong == lost | silent


async def test_an_action_that_is_not_possible_leaves_no_entry() -> None:
    async with calling(small()) as caller:
        with pytest.raises(NotPossibleError):
            caller.running.sandbox.act("cancel", id="nobody")
        with pytest.raises(BadArgumentError):
            caller.running.sandbox.act("cancel", identity="x")
        assert caller.running.sandbox.ledger.entries() == []


def test_a_ledger_is_bounded_says_so_and_goes_on_from_a_mark() -> None:
    ledger = Ledger(limit=3)
    for number in range(4):
        ledger.write("cancel", START_MS, [change(f"a{number}", number)], [announced(f"a{number}", "200")])
    with pytest.raises(LookupError, match="forgotten"):
        ledger.entries()
    assert [entry.record_id for entry in ledger.entries(since=1)] == ["a1", "a2", "a3"]
    mark = ledger.mark()
    ledger.clear()
    assert (ledger.entries(), ledger.mark()) == ([], mark)
    ledger.write("edit", START_MS, [change("a9")], [])
    assert [(entry.number, entry.record_id) for entry in ledger.entries()] == [(mark, "a9")]


async def test_the_control_api_streams_the_ledger_by_kind_and_since_a_mark() -> None:
    async def lines(path: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (await caller.control(path)).text.splitlines()]

    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        lost = (await caller.control("/actions", {"action": "book", "lost": True})).json["record_id"]
        mark = (await caller.control("/ledger", {})).json["next"]
        await caller.control("/actions", {"action": "edit_client"})
        assert receiver.posts == []
        (entry,) = await lines("/ledger?kind=appointment")
        assert (entry["id"], entry["event"], entry["fate"]) == (lost, "AppointmentCreated", "dropped")
        (entry,) = await lines(f"/ledger?since={mark}")
        assert (entry["kind"], entry["event"], entry["fate"]) == ("client", None, "silent")
        assert (await caller.control("/ledger?since=yesterday")).status == 400
        assert (await caller.control("/ledger?kind=plant")).status == 400
        await caller.control("/ledger", {"clear": True})
        assert await lines("/ledger") == []


async def test_asking_the_control_api_for_what_is_forgotten_says_so() -> None:
    async with calling(small(ledger_limit=2)) as caller:
        for _ in range(3):
            caller.running.sandbox.act("book")
        answer = await caller.control("/ledger")
        assert answer.status == 409
        assert "forgotten" in answer.json["error"]
