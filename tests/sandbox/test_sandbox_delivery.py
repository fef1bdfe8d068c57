import asyncio
import base64
import hashlib
import hmac
import random
import time

import pytest
import uvloop

from eventsync.sandbox import Faults, SenderLimits, SignatureEncoding, Signing
from eventsync.sandbox.delivery import WebhookSender
from eventsync.sandbox.faults import plan_copies
from eventsync.sandbox.stats import Stats
from eventsync.sandbox.vendor import Webhook
from sandbox.sandbox_receiver import Receiver, calling, receiving, small

ONE_BY_ONE = SenderLimits(concurrency=1)


def sender_to(
    receiver: Receiver,
    stats: Stats,
    faults: Faults | None = None,
    limits: SenderLimits = ONE_BY_ONE,
    signing: Signing | None = None,
) -> WebhookSender:
    return WebhookSender(
        targets=receiver.targets,
        faults=faults or Faults(),
        rng=random.Random("delivery"),
        stats=stats,
        limits=limits,
        signing=signing,
    )


def numbered(number: int) -> Webhook:
    return Webhook("note", "Numbered", b"%d" % number)


async def send(sender: WebhookSender, count: int) -> None:
    async with sender.running():
        for number in range(count):
            sender.take(numbered(number))
        assert await sender.idle(30)


async def test_without_faults_each_webhook_arrives_once_and_in_order() -> None:
    async with receiving() as receiver:
        stats = Stats()
        await send(sender_to(receiver, stats), 50)
        assert [int(post.raw) for post in receiver.posts] == list(range(50))
        assert stats.answers == {"200": 50}
        assert receiver.posts[0].headers["Content-Type"] == "application/json"


async def test_drops_doubles_delays_and_overtaking_come_in_the_asked_shares() -> None:
    faults = Faults(drop=0.1, duplicate=0.2, delay=0.05, delay_min_s=0.05, delay_max_s=0.2, reorder=0.2)
    async with receiving() as receiver:
        stats = Stats()
        await send(sender_to(receiver, stats, faults, SenderLimits()), 2_000)
        numbers = [int(post.raw) for post in receiver.posts]
        assert 140 < stats.dropped < 260
        assert 300 < stats.duplicated < 420
        assert 60 < stats.delayed < 130
        assert 300 < stats.reordered < 420
        assert len(set(numbers)) == 2_000 - stats.dropped
        assert len(numbers) == 2_000 - stats.dropped + stats.duplicated


def test_one_seed_gives_the_same_faults_whatever_their_shares_were_before() -> None:
    one, two = random.Random("x"), random.Random("x")
    heavy, light = Faults(drop=0.3, duplicate=0.3, reorder=0.3), Faults(drop=0.1)
    first = [plan_copies(heavy, one) for _ in range(200)]
    for _ in range(200):
        plan_copies(light, two)
    assert [plan_copies(heavy, random.Random("x"))] == first[:1]
    assert [plan_copies(heavy, one) for _ in range(50)] == [plan_copies(heavy, two) for _ in range(50)]


async def test_an_overtaken_webhook_arrives_after_later_ones_and_never_waits_for_ever() -> None:
    faults = Faults(reorder=0.3, reorder_span=3, reorder_hold_s=0.05)
    async with receiving() as receiver:
        sender = sender_to(receiver, Stats(), faults)
        async with sender.running():
            for number in range(100):
                sender.take(numbered(number))
            await receiver.wait_for(100)  # nobody asks for idle: the hold time alone lets the last ones go
        numbers = [int(post.raw) for post in receiver.posts]
        assert sorted(numbers) == list(range(100))
        assert numbers != sorted(numbers)
        assert all(abs(place - number) <= 4 for place, number in enumerate(numbers))


async def test_a_delayed_webhook_arrives_late_by_the_asked_span() -> None:
    async with receiving() as receiver:
        started_s = time.monotonic()
        faults = Faults(delay=1.0, delay_min_s=0.2, delay_max_s=0.3)
        await send(sender_to(receiver, Stats(), faults), 1)
        assert 0.2 <= time.monotonic() - started_s < 5


def test_late_and_overtaken_webhooks_all_arrive_on_uvloop_too() -> None:
    faults = Faults(delay=0.3, delay_min_s=0, delay_max_s=0.01, reorder=0.5, reorder_hold_s=0)

    async def arrived() -> set[int]:
        async with receiving() as receiver:
            await send(sender_to(receiver, Stats(), faults), 500)
            return {int(post.raw) for post in receiver.posts}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(arrived()) == set(range(500))


async def test_a_refused_webhook_is_not_sent_again() -> None:
    async with receiving() as receiver:
        receiver.status = 503
        stats = Stats()
        await send(sender_to(receiver, stats), 5)
        assert len(receiver.posts) == 5
        assert stats.answers == {"503": 5}


async def test_an_answer_that_does_not_come_is_given_up_after_its_time() -> None:
    async with receiving() as receiver:
        receiver.answering.clear()
        stats = Stats()
        await send(sender_to(receiver, stats, limits=SenderLimits(answer_timeout_s=0.2)), 3)
        assert stats.answers == {"timeout": 3}


async def test_a_receiver_that_is_away_costs_the_webhook_and_nothing_else() -> None:
    async with receiving() as receiver:
        pass
    stats = Stats()
    await send(sender_to(receiver, stats), 3)
    assert stats.answers == {"connection": 3}


async def test_what_was_not_sent_at_the_end_is_counted_as_abandoned() -> None:
    async with receiving() as receiver:
        stats = Stats()
        sender = sender_to(receiver, stats, Faults(delay=1.0, delay_min_s=60, delay_max_s=60))
        async with sender.running():
            sender.take(numbered(1))
            assert not await sender.idle(0.05)
        assert stats.abandoned == 1


async def test_at_most_so_many_posts_run_at_once() -> None:
    async with receiving() as receiver:
        receiver.answering.clear()
        sender = sender_to(receiver, Stats(), limits=SenderLimits(concurrency=4))
        async with sender.running():
            for number in range(20):
                sender.take(numbered(number))
            await receiver.wait_for(4)
            assert len(receiver.posts) == 4
            receiver.answering.set()
            assert await sender.idle(10)
        assert len(receiver.posts) == 20


@pytest.mark.parametrize("encoding", list(SignatureEncoding))
async def test_a_signature_is_the_hmac_of_the_raw_body(encoding: SignatureEncoding) -> None:
    signing = Signing(secret="invented", header="X-Gateway-Signature", encoding=encoding, prefix="sha256=")
    async with receiving() as receiver:
        await send(sender_to(receiver, Stats(), signing=signing), 1)
        digest = hmac.new(b"invented", receiver.posts[0].raw, hashlib.sha256).digest()
        text = digest.hex() if encoding is SignatureEncoding.HEX else base64.b64encode(digest).decode()
        assert receiver.posts[0].headers["X-Gateway-Signature"] == "sha256=" + text


async def test_api_faults_are_errors_pages_and_slow_answers() -> None:
    async with calling(small(faults=Faults(api_error=1.0))) as caller:
        assert (await caller.api("/practitioners")).status == 500
        await caller.control("/faults", {"reset": True, "api_html": 1.0})
        answers = [await caller.api("/practitioners") for _ in range(12)]
        assert {answer.status for answer in answers} == {200, 503}
        assert all(answer.headers["Content-Type"].startswith("text/html") for answer in answers)
        await caller.control("/faults", {"reset": True, "api_slow": 1, "api_slow_min_s": 0.2, "api_slow_max_s": 0.2})
        started_s = asyncio.get_running_loop().time()
        assert (await caller.api("/practitioners")).status == 200
        assert asyncio.get_running_loop().time() - started_s >= 0.2


def test_faults_are_read_from_text() -> None:
    assert Faults.parse("drop=0.03, duplicate=0.2") == Faults(drop=0.03, duplicate=0.2)
    assert Faults.parse("") == Faults()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("drop", "name=number"),
        ("drop=2", "share"),
        ("dropp=0.1", "known: drop"),
        ("drop=much", "drop must be a number"),
        ("delay_min_s=5,delay_max_s=1", "min <= max"),
    ],
)
def test_wrong_faults_are_refused_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Faults.parse(text)
