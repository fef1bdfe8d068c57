import asyncio
import time

import aiohttp
import pytest

from eventsync.sandbox import ApiAnswer, Faults, PostBook
from sandbox.colectiva_app import App, body_of, marketplace, registering


def told(app: App) -> list[tuple[bool, bool, bool, int | None]]:
    return [(post.is_committed, post.is_replayed, post.is_lost, post.status) for post in app.posts]


async def test_an_answer_can_be_lost_after_the_write_and_the_same_key_gets_it_later() -> None:
    async with registering() as app:
        app.script(method="POST", answer=ApiAnswer.LOST)
        await app.lose(body_of(1), "key-1")
        assert app.registration(1).name == "Test Practice 1"
        assert (await app.post(body_of(1), "key-1")).status == 201
        assert told(app) == [(True, False, True, None), (False, True, False, 201)]
        counts = app.posts.by_key()["key-1"]
        assert (counts.received, counts.committed, counts.accepted) == (2, 1, 1)
        assert app.posts.needless() == []


async def test_a_connection_can_be_cut_before_anything_is_written() -> None:
    async with registering() as app:
        app.script(answer=ApiAnswer.CUT)
        await app.lose(body_of(1), "key-1")
        assert not app.vendor.organizations
        assert told(app) == [(False, False, True, None)]


async def test_an_answer_that_breaks_off_in_the_middle_was_written_and_counts_as_lost() -> None:
    async with registering() as app:
        app.script(answer=ApiAnswer.CUT_MIDWAY)
        with pytest.raises(aiohttp.ClientPayloadError):
            await app.post(body_of(1), "key-1")
        assert told(app) == [(True, False, True, None)]


@pytest.mark.parametrize(
    ("answer", "status", "retry_after_s"),
    [
        (ApiAnswer.STATUS, 500, None),
        (ApiAnswer.STATUS, 503, 7),
        (ApiAnswer.STATUS, 429, None),
        (ApiAnswer.STATUS, 409, None),
        (ApiAnswer.HTML, 200, None),
        (ApiAnswer.HTML, 503, None),
    ],
)
async def test_a_scripted_answer_writes_nothing_is_noted_and_is_no_acceptance(
    answer: ApiAnswer, status: int, retry_after_s: int | None
) -> None:
    async with registering() as app:
        app.script(answer=answer, status=status, retry_after_s=retry_after_s)
        got = await app.post(body_of(1), "key-1")
        assert got.status == status
        assert got.headers.get("Retry-After") == (None if retry_after_s is None else str(retry_after_s))
        assert got.headers["Content-Type"].startswith("text/html") is (answer is ApiAnswer.HTML)
        (post,) = app.posts
        assert (post.is_committed, post.is_accepted, post.is_lost, post.status) == (False, False, False, status)
        assert not app.vendor.organizations


async def test_a_script_can_be_about_posts_only() -> None:
    async with registering() as app:
        await app.control(
            "/script", {"route": "/ecosystem-orgs", "method": "POST", "answer": "lost", "times": 2, "call": 2}
        )
        assert (await app.control("/script")).json["pending"][0]["method"] == "POST"
        for _ in range(3):
            await app.organizations()
        assert (await app.post(body_of(1))).status == 201
        await app.lose(body_of(2))
        await app.lose(body_of(3))
        assert len(app.vendor.organizations) == 3


async def test_a_repeat_is_needless_only_once_its_key_was_accepted() -> None:
    async with registering() as app:
        app.script(answer=ApiAnswer.STATUS, status=500)
        assert (await app.post(body_of(1), "key-1")).status == 500
        for _ in range(3):
            assert (await app.post(body_of(1), "key-1")).status == 201
        assert (await app.post(body_of(1, name="Newer"), "key-2")).status == 200
        assert [post.number for post in app.posts.needless()] == [2, 3]
        assert app.posts.needless(since=2)[0].number == 3


async def test_refused_posts_are_noted_with_whom_they_were_about() -> None:
    async with registering() as app:
        await app.post(body_of(1), "key-1", token="Bearer wrong")
        await app.post(body_of(1, name=None), "key-1")
        await app.post(b"{", "key-2")
        assert [(post.status, post.app_org_id, post.idempotency_key) for post in app.posts] == [
            (401, body_of(1)["app_org_id"], "key-1"),
            (400, body_of(1)["app_org_id"], "key-1"),
            (400, None, "key-2"),
        ]


async def test_two_posts_of_one_organization_at_once_are_told_and_those_of_two_are_not() -> None:
    async with registering() as app:
        both, release = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            if len(app.posts) == 3:
                both.set()
            await release.wait()

        app.script(times=3, before=hold)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for number, key in ((1, "a"), (2, "b"), (1, "c")):
                group.create_task(app.post(body_of(number), key))
            await both.wait()
            release.set()
        overlapping = [post.app_org_id for post in app.posts if post.is_overlapping]
        assert overlapping == [body_of(1)["app_org_id"]]
        assert (await app.post(body_of(1), "d")).status == 200
        assert [post.is_overlapping for post in app.posts][-1] is False


async def test_a_caller_who_gives_up_leaves_a_write_whose_answer_was_lost() -> None:
    async with registering() as app:
        came, release = asyncio.Event(), asyncio.Event()
        gone = asyncio.Event()

        async def hold() -> None:
            came.set()
            await release.wait()

        async def done() -> None:
            gone.set()

        app.script(before=hold, after=done)
        async with asyncio.timeout(20):
            waiting = asyncio.create_task(app.post(body_of(1), "key-1"))
            await came.wait()
            waiting.cancel()
            await asyncio.wait([waiting])
            await app.control("/stats")  # by then the server has seen the caller go
            release.set()
            await gone.wait()
            while app.posts.since()[0].is_open:  # it ends right after the script
                await app.control("/stats")
        assert told(app) == [(True, False, True, None)]


async def test_the_share_of_lost_answers_is_a_fault_and_every_write_stands() -> None:
    async with registering(marketplace(faults=Faults(api_lost=0.3, api_error=0.2), seed=4)) as app:
        for number in range(60):
            try:
                await app.post(body_of(number), f"key-{number}")
            except aiohttp.ClientConnectionError:
                continue
        lost = [post for post in app.posts if post.is_lost]
        failed = [post for post in app.posts if post.status == 500]
        assert 5 <= len(lost) <= 30
        assert 3 <= len(failed) <= 25
        assert all(post.is_committed for post in lost)
        assert len(app.vendor.organizations) == 60 - len(failed)
        assert (await app.control("/stats")).json["api_answers"]["none"] == len(lost)


async def test_the_control_api_tells_of_posts_keys_and_sums() -> None:
    async with registering() as app:
        await app.post(body_of(1), "key-1")
        mark = app.posts.mark()
        app.script(answer=ApiAnswer.LOST)
        await app.lose(body_of(2), "key-2")
        await app.post(body_of(2), "key-2")
        first, second, third = await app.lines("/posts")
        assert (first["status"], first["is_accepted"], first["idempotency_key"]) == (201, True, "key-1")
        assert second["is_lost"] is True
        assert second["body_hash"] == third["body_hash"] != first["body_hash"]
        assert await app.lines(f"/posts?since={mark}") == [second, third]
        assert await app.lines("/posts/keys") == [
            {"idempotency_key": "key-1", "received": 1, "committed": 1, "accepted": 1},
            {"idempotency_key": "key-2", "received": 2, "committed": 1, "accepted": 1},
        ]
        summary = (await app.control(f"/posts/summary?since={mark}")).json
        assert summary == {
            "received": 2, "committed": 1, "accepted": 1, "lost": 1, "overlapping": 0, "needless": 0, "next": 3,
        }  # fmt: skip
        assert (await app.control("/posts?since=x")).status == 400


def test_ten_thousand_posts_are_noted_and_counted_in_a_moment_and_the_oldest_are_forgotten_in_the_end() -> None:
    book = PostBook(kept=20_000)
    started_s = time.perf_counter()
    for number in range(10_000):
        post = book.open(at_ms=number, arrived_s=0.0, key=f"k{number % 4_000}", app_org_id="x", body_hash="y")
        post.is_committed = number < 4_000
        post.is_replayed = number >= 4_000
        book.close(post, 200, is_lost=False)
    assert len(book.needless()) == 6_000
    assert sum(counts.received for counts in book.by_key().values()) == 10_000
    assert time.perf_counter() - started_s < 2
    for number in range(10_001):
        book.close(book.open(at_ms=number, arrived_s=0.0, key=None, app_org_id=None, body_hash=""), 200, is_lost=False)
    with pytest.raises(LookupError, match="forgotten"):
        book.since(0)
    assert len(book.since(book.mark() - 3)) == 3
