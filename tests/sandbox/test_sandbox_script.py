from typing import Any

import aiohttp
import pytest

from eventsync.sandbox import ApiAnswer, BadArgumentError, QuotaLimits, ScriptedCall
from sandbox.sandbox_receiver import Answer, Caller, calling, receiving, small

LIST = "/appointments"


async def statuses(caller: Caller, path: str, count: int) -> list[int]:
    return [(await caller.api(path)).status for _ in range(count)]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_the_nth_call_of_a_route_gets_its_status_and_the_others_the_truth(status: int) -> None:
    async with calling(small()) as caller:
        script = caller.running.sandbox.script
        script.add(ScriptedCall(route=LIST, call=3, times=2, answer=ApiAnswer.STATUS, status=status))
        assert await statuses(caller, "/clients", 4) == [200] * 4
        assert await statuses(caller, LIST, 5) == [200, 200, status, status, 200]
        assert script.pending == ()


@pytest.mark.parametrize("retry_after_s", [None, 30])
async def test_a_429_names_the_wait_only_when_it_is_asked_to(retry_after_s: int | None) -> None:
    async with calling(small()) as caller:
        call = ScriptedCall(route="*", answer=ApiAnswer.STATUS, status=429, retry_after_s=retry_after_s)
        caller.running.sandbox.script.add(call)
        answer = await caller.api(LIST)
        assert answer.status == 429
        assert answer.headers.get("Retry-After") == (None if retry_after_s is None else "30")


@pytest.mark.parametrize("status", [200, 503])
async def test_a_page_for_people_comes_with_either_status(status: int) -> None:
    async with calling(small()) as caller:
        caller.running.sandbox.script.add(ScriptedCall(route="/clients", answer=ApiAnswer.HTML, status=status))
        answer = await caller.api("/clients")
        assert answer.status == status
        assert answer.headers["Content-Type"].startswith("text/html")


async def test_empty_lists_are_answered_from_now_on_and_back_again() -> None:
    async with calling(small()) as caller:
        script = caller.running.sandbox.script
        empty = script.add(ScriptedCall(route="*", times=None, answer=ApiAnswer.EMPTY_LIST))
        for path in (LIST, "/clients", LIST, "/clients?includeProfile=true"):
            assert (await caller.api(path)).json == []
        assert script.pending == (empty,)
        script.remove(empty)
        assert len((await caller.api(LIST)).json) == 100


async def test_a_page_repeats_and_the_walk_goes_on_after_it() -> None:
    async with calling(small(appointments=250)) as caller:
        caller.running.sandbox.script.add(ScriptedCall(route=LIST, call=2, answer=ApiAnswer.PREVIOUS_PAGE))
        pages = [(await caller.api(f"{LIST}?page={page}")).json for page in (1, 2, 3)]
        assert pages[0] == pages[1]
        assert [len(page) for page in pages] == [100, 100, 50]


async def test_the_first_page_has_nothing_to_repeat_and_is_the_truth() -> None:
    async with calling(small()) as caller:
        caller.running.sandbox.script.add(ScriptedCall(route=LIST, answer=ApiAnswer.PREVIOUS_PAGE))
        assert len((await caller.api(LIST)).json) == 100


async def test_a_connection_cut_twice_gives_no_answer_and_the_next_call_does() -> None:
    async with calling(small()) as caller:
        caller.running.sandbox.script.add(ScriptedCall(route=LIST, answer=ApiAnswer.CUT, times=2))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller.api(LIST)
        assert (await caller.api(LIST)).status == 200


async def test_aiohttp_s_client_asks_again_by_itself_after_one_cut_and_both_calls_count() -> None:
    async with calling(small(quota=QuotaLimits(per_minute=2, per_day=None))) as caller:
        caller.running.sandbox.script.add(ScriptedCall(route=LIST, answer=ApiAnswer.CUT))
        assert await statuses(caller, LIST, 2) == [200, 429]
        assert sum(caller.running.sandbox.stats.api_calls.values()) == 3


async def test_an_answer_can_break_off_in_the_middle() -> None:
    async with calling(small()) as caller:
        caller.running.sandbox.script.add(ScriptedCall(route=LIST, answer=ApiAnswer.CUT_MIDWAY))
        with pytest.raises(aiohttp.ClientPayloadError):
            await caller.api(LIST)
        assert (await caller.api(LIST)).status == 200


async def test_calls_are_told_apart_by_their_parameters() -> None:
    async with calling(small(appointments=250)) as caller:
        script = caller.running.sandbox.script
        script.add(
            ScriptedCall(
                route=LIST, query={"Page": "2", "deletedOnly": None}, answer=ApiAnswer.STATUS, status=503, times=None
            )
        )
        script.add(ScriptedCall(route=LIST, query={"deletedOnly": "true"}, answer=ApiAnswer.HTML, status=200))
        assert (await caller.api(f"{LIST}?page=1")).status == 200
        assert (await caller.api(f"{LIST}?page=2")).status == 503
        assert (await caller.api(f"{LIST}?page=2&deletedOnly=true")).headers["Content-Type"].startswith("text/html")
        assert (await caller.api(f"{LIST}?page=2&deletedonly=true")).json == []


async def test_a_list_shifts_before_its_second_page_and_a_row_slips_through() -> None:
    async with calling(small(appointments=150)) as caller:
        sandbox = caller.running.sandbox
        latest = (await caller.api(LIST)).json[0]["Id"]

        async def shift() -> None:
            sandbox.act("delete", id=latest)

        sandbox.script.add(ScriptedCall(route=LIST, query={"page": "2"}, before=shift))
        assert len(await caller.pages(LIST)) == 149


async def test_a_webhook_arrives_while_the_page_that_lacks_its_change_is_still_on_its_way() -> None:
    async with receiving() as receiver, calling(small(webhook_targets=receiver.targets)) as caller:
        sandbox = caller.running.sandbox
        chosen = next(row for row in (await caller.api(LIST)).json if row["Status"] == "Confirmed")

        async def change() -> None:
            sandbox.act("delete", id=chosen["Id"])
            assert await sandbox.quiesce()

        sandbox.script.add(ScriptedCall(route=LIST, after=change))
        page = (await caller.api(LIST)).json
        assert chosen in page
        assert receiver.posts[0].body["EventType"] == "AppointmentDeleted"
        assert chosen["Id"] not in {row["Id"] for row in (await caller.api(LIST)).json}


async def test_a_wrong_key_and_a_spent_quota_do_not_count_as_calls() -> None:
    async with calling(small(quota=QuotaLimits(per_minute=2, per_day=None))) as caller:
        sandbox = caller.running.sandbox
        sandbox.script.add(ScriptedCall(route=LIST, call=2, answer=ApiAnswer.STATUS, status=403))
        assert (await caller.api(LIST, key="wrong")).status == 401
        assert await statuses(caller, LIST, 3) == [200, 403, 429]


async def test_a_revoked_key_gets_401_at_once_and_the_new_one_works() -> None:
    async with calling(small()) as caller:
        assert (await caller.api(LIST)).status == 200
        caller.running.sandbox.set_api_key("another-key")
        assert (await caller.api(LIST)).status == 401
        assert (await caller.api(LIST, key="another-key")).status == 200
        assert (await caller.control("/api-key", {"api_key": caller.running.api_key})).status == 200
        assert (await caller.api(LIST)).status == 200
        assert (await caller.control("/api-key", {})).status == 400


async def test_the_control_api_scripts_answers_and_actions() -> None:
    async with calling(small()) as caller:
        added = await caller.control(
            "/script",
            {"route": LIST, "call": 2, "answer": "status", "status": 503, "after": {"action": "add_client"}},
        )
        (pending,) = added.json["pending"]
        assert (pending["route"], pending["call"], pending["times"], pending["acts"]) == (LIST, 2, 1, True)
        assert await statuses(caller, LIST, 3) == [200, 503, 200]
        assert (await caller.control("/script")).json == {"pending": []}
        assert (await caller.control("/stats")).json["records"]["clients"] == 31


async def test_the_control_api_answers_empty_lists_until_the_script_is_cleared() -> None:
    async with calling(small()) as caller:
        await caller.control("/script", {"route": "*", "times": 0, "answer": "empty_list"})
        assert (await caller.api("/clients")).json == []
        assert (await caller.control("/script", {"clear": True})).json == {"pending": []}
        assert len((await caller.api("/clients")).json) == 30


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"answer": "html"}, "route is needed"),
        ({"route": "/appointment", "answer": "html"}, "one of *, /appointments"),
        ({"route": LIST}, "give an answer"),
        ({"route": LIST, "answer": "nothing"}, "empty_list"),
        ({"route": LIST, "answer": "html", "call": 0}, "count from 1"),
        ({"route": LIST, "answer": "status", "status": 99}, "HTTP status"),
        ({"route": LIST, "answer": "html", "query": {"page": 2}}, "as text"),
        ({"route": LIST, "before": {"action": "levitate"}}, "action"),
        ({"route": LIST, "answer": "html", "reason": "x"}, "unknown"),
    ],
)
async def test_a_wrong_script_is_refused_with_a_hint(value: dict[str, Any], words: str) -> None:
    async with calling(small()) as caller:
        answer: Answer = await caller.control("/script", value)
        assert answer.status == 400
        assert words in answer.json["error"]
        assert caller.running.sandbox.script.pending == ()


async def test_a_route_that_the_vendor_has_not_is_refused_in_process_too() -> None:
    async with calling(small()) as caller:
        with pytest.raises(BadArgumentError, match="route must be"):
            caller.running.sandbox.script.add(ScriptedCall(route="/packages", answer=ApiAnswer.HTML))
