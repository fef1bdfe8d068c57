"""PostgreSQL refuses, breaks off, hangs or is not as expected: webhooks are kept, and come back by themselves, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from eventsync.crypto import Keyring, hash_token
from eventsync.domain.connections import HmacCheck
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.tenants import AddedConnection
from eventsync.spool.spool import Spool
from eventsync.stages.verify import VerifierBook
from eventsync.telemetry import Metrics
from eventsync.vendorkit.signing import sign
from servers.eventually import eventually
from servers.proxy import TcpProxy
from web.webhook_door import BODY, Answer, Door, Limits, Practice, open_door, utc_now

IMPATIENT = Limits(insert_timeout_s=0.4, lookup_timeout_s=0.3)
BOUND_S = 2.0


@pytest.fixture
def practice(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Practice:
    return Practice(pool, database, keyring)


@pytest.fixture
async def connection(practice: Practice) -> AddedConnection:
    return await practice.connect()


@pytest.fixture
async def proxy(tcp_proxy: Callable[[str], Awaitable[TcpProxy]], database_url: str) -> TcpProxy:
    return await tcp_proxy(database_url)


@pytest.fixture
async def door(proxy: TcpProxy, keyring: Keyring, tmp_path: Path, connection: AddedConnection) -> AsyncIterator[Door]:
    """A door that reaches PostgreSQL by way of the proxy, and knows the connection's token."""
    async with open_door(proxy.url, keyring, tmp_path, IMPATIENT) as door:
        await eventually(lambda: door.book.is_current)
        yield door


async def refuse(proxy: TcpProxy) -> None:
    await proxy.refuse()
    proxy.cut()


async def hang(proxy: TcpProxy) -> None:
    proxy.hold()


async def restore(proxy: TcpProxy) -> None:
    proxy.cut()  # what was half-open stays broken; new connections are fine
    proxy.resume()
    await proxy.accept()


async def drained(door: Door, practice: Practice, answers: list[Answer]) -> None:
    """Wait until the spool is empty by itself, and see every event stored exactly once."""
    await eventually(lambda: door.spool.stats.waiting_count == 0)
    assert sorted(await practice.stored_ids()) == sorted(answer.event_id for answer in answers)


@pytest.mark.parametrize("fails", [refuse, hang])
async def test_while_postgresql_is_away_webhooks_are_answered_200_soon_and_come_back_by_themselves(
    door: Door,
    practice: Practice,
    connection: AddedConnection,
    proxy: TcpProxy,
    fails: Callable[[TcpProxy], Awaitable[None]],
) -> None:
    before = await door.post(connection.webhook_token)
    await fails(proxy)
    began = time.monotonic()
    first = await door.post(connection.webhook_token)
    assert time.monotonic() - began < BOUND_S
    began = time.monotonic()
    rest = await asyncio.gather(*(door.post(connection.webhook_token) for _ in range(20)))
    assert time.monotonic() - began < BOUND_S  # whoever comes later does not wait in vain again
    answers = [before, first, *rest]
    assert {answer.status for answer in answers} == {200}
    assert door.spool.stats.count == 21
    assert door.spool.stats.put_transactions < 21
    assert await practice.stored_ids() == [before.event_id]

    await restore(proxy)
    await drained(door, practice, answers)
    await eventually(lambda: not door.receiver.database_is_away)
    after = await door.post(connection.webhook_token)
    assert after.event_id in await practice.stored_ids()


async def test_what_never_can_be_read_is_parked_by_way_of_the_spool_too(
    door: Door, practice: Practice, connection: AddedConnection, proxy: TcpProxy
) -> None:
    await refuse(proxy)
    assert (await door.post(connection.webhook_token, b"nonsense")).status == 400
    await restore(proxy)
    [event] = await eventually(practice.stored)
    assert (event.status, event.reason) == ("parked", "not_json")


async def test_the_spool_is_drained_oldest_first(
    door: Door, practice: Practice, connection: AddedConnection, proxy: TcpProxy
) -> None:
    await refuse(proxy)
    answers = [await door.post(connection.webhook_token) for _ in range(9)]
    door.drain._group_events = 1
    await restore(proxy)
    await drained(door, practice, answers)
    as_committed = await practice.stored_ids()
    assert as_committed == sorted(as_committed)  # an id begins with its time


async def test_a_commit_whose_answer_is_held_back_does_not_double_the_event(
    door: Door, practice: Practice, connection: AddedConnection, proxy: TcpProxy
) -> None:
    warm = await door.post(connection.webhook_token)
    proxy.hold_answers()
    answer = await door.post(connection.webhook_token)
    assert answer.status == 200
    assert door.spool.stats.count == 1
    assert answer.event_id in await practice.stored_ids()
    await restore(proxy)
    await drained(door, practice, [warm, answer])


async def test_a_commit_whose_answer_is_lost_neither_doubles_the_event_nor_begins_it_again(
    door: Door, practice: Practice, connection: AddedConnection, proxy: TcpProxy, database: asyncpg.Connection
) -> None:
    warm = await door.post(connection.webhook_token)
    proxy.hold_answers()
    request = asyncio.create_task(door.post(connection.webhook_token))
    await eventually(lambda: stored_count(practice, 2))
    await database.execute("DELETE FROM event_queue")  # a consumer was quick: the events have ended
    await proxy.refuse()
    proxy.cut()
    answer = await request
    assert answer.status == 200
    await restore(proxy)
    await drained(door, practice, [warm, answer])
    assert [event.status for event in await practice.stored()] == [None, None]


async def test_a_lock_that_lasts_delays_only_the_first_and_nothing_doubles(
    door: Door, practice: Practice, connection: AddedConnection, database: asyncpg.Connection
) -> None:
    warm = await door.post(connection.webhook_token)
    async with database.transaction():
        await database.execute("LOCK TABLE event_queue IN ACCESS EXCLUSIVE MODE")
        first = await door.post(connection.webhook_token)
        # PostgreSQL answers a ping all the while; only an INSERT that comes through may count as being back.
        await eventually(lambda: door.receiver.database_is_away)
        began = time.monotonic()
        rest = [await door.post(connection.webhook_token) for _ in range(30)]
        assert time.monotonic() - began < BOUND_S
    assert {answer.status for answer in (first, *rest)} == {200}
    await drained(door, practice, [warm, first, *rest])


async def test_a_missing_partition_sends_events_by_the_spool_which_makes_it(
    door: Door, practice: Practice, connection: AddedConnection, database: asyncpg.Connection
) -> None:
    for row in await database.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent IN"
        " ('events'::regclass, 'event_history'::regclass)"
    ):
        await database.execute(f"DROP TABLE {row['name']}")
    answers = await asyncio.gather(*(door.post(connection.webhook_token) for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    await drained(door, practice, answers)
    assert not door.receiver.database_is_away
    answers.append(await door.post(connection.webhook_token))
    assert await door.count("eventsync_events_received_total", vendor="intakeq", store="postgres") == 1
    await drained(door, practice, answers)


async def test_a_missing_table_costs_nothing_but_time(
    door: Door, practice: Practice, connection: AddedConnection, database: asyncpg.Connection
) -> None:
    await database.execute("ALTER TABLE event_queue RENAME TO elsewhere")
    answers = [await door.post(connection.webhook_token) for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    await database.execute("ALTER TABLE elsewhere RENAME TO event_queue")
    await drained(door, practice, answers)


async def test_a_full_spool_without_postgresql_is_answered_503_until_postgresql_is_back(
    proxy: TcpProxy, keyring: Keyring, tmp_path: Path, practice: Practice, connection: AddedConnection
) -> None:
    body = b'{"Note":"' + b"x" * 60_000 + b'"}'
    small = Limits(insert_timeout_s=0.4, spool_bytes=512 * 1024)
    async with open_door(proxy.url, keyring, tmp_path, small) as door:
        await eventually(lambda: door.book.is_current)
        await refuse(proxy)
        answers = [await door.post(connection.webhook_token, body) for _ in range(20)]
        full = [answer for answer in answers if answer.status == 503]
        assert {answer.status for answer in answers} == {200, 503}
        assert full[0].json["details"]["error_type"] == "not_stored"
        assert int(full[0].headers["Retry-After"]) >= 1

        await restore(proxy)
        accepted = [answer for answer in answers if answer.status == 200]
        await drained(door, practice, accepted)
        accepted.append(await door.post(connection.webhook_token, body))
        await drained(door, practice, accepted)


async def test_a_dead_disk_costs_nothing_while_postgresql_takes_events_and_503_only_while_neither_does(
    door: Door, practice: Practice, connection: AddedConnection, proxy: TcpProxy
) -> None:
    door.spool._free_bytes = lambda _folder: 0
    await refuse(proxy)
    assert (await door.post(connection.webhook_token)).status == 503
    await restore(proxy)
    # Not even the drain has noticed yet: the door asks PostgreSQL itself before it turns anyone away.
    answer = await door.post(connection.webhook_token)
    assert answer.status == 200
    assert await practice.stored_ids() == [answer.event_id]


@asynccontextmanager
async def restarted(proxy: TcpProxy, keyring: Keyring, folder: Path, limits: Limits = IMPATIENT) -> AsyncIterator[Door]:
    """A door that starts while PostgreSQL is away, with the spool of one that ran before."""
    async with open_door(proxy.url, keyring, folder, limits) as door:
        await eventually(lambda: door.book.is_current)
        await eventually(lambda: remembered(door))
    await refuse(proxy)
    async with open_door(proxy.url, keyring, folder, limits) as door:
        yield door


async def remembered(door: Door) -> bool:
    return bool(await door.spool.verifiers())


async def test_a_door_that_starts_while_postgresql_is_away_knows_its_tokens(
    proxy: TcpProxy, keyring: Keyring, tmp_path: Path, practice: Practice, connection: AddedConnection
) -> None:
    async with restarted(proxy, keyring, tmp_path) as door:
        answer = await door.post(connection.webhook_token)
        assert answer.status == 200
        assert (door.spool.stats.count, door.spool.stats.unverified_count) == (1, 0)
        await restore(proxy)
        await drained(door, practice, [answer])


async def test_a_token_learnt_by_a_look_up_is_remembered_for_a_restart(
    pool: Database, keyring: Keyring, tmp_path: Path, practice: Practice
) -> None:
    spool = Spool(tmp_path / "spool.sqlite3", keyring, clock=utc_now)
    await spool.open()
    book = VerifierBook(practice.tokens, spool, Listener(pool.url, Metrics()), utc_now)
    await book.refresh()
    connection = await practice.connect()
    found = await book.find(hash_token(connection.webhook_token))
    await book.refresh()
    assert await spool.verifiers() == (found,)
    await spool.close()


async def test_unknown_tokens_are_kept_apart_and_judged_when_postgresql_is_back(
    proxy: TcpProxy, keyring: Keyring, tmp_path: Path, practice: Practice, connection: AddedConnection
) -> None:
    check = HmacCheck("X-Signature", ("secret",))
    async with restarted(proxy, keyring, tmp_path) as door:
        late, signed = await practice.connect(), await practice.connect(hmac=check)
        good = [
            await door.post(late.webhook_token),
            await door.post(signed.webhook_token, headers={"X-Signature": sign(check, BODY)}),
            await door.post(late.webhook_token, b"nonsense"),
        ]
        bad = [
            await door.post("a-guess"),
            await door.post(signed.webhook_token, headers={"X-Signature": "00" * 32}),
            await door.post(signed.webhook_token, headers=[("X-Signature", "00"), ("X-Signature", sign(check, BODY))]),
        ]
        assert {answer.status for answer in (*good, *bad)} == {200}
        assert (door.spool.stats.count, door.spool.stats.unverified_count) == (0, 6)
        await restore(proxy)
        await drained(door, practice, good)
        stored = {event.id: event for event in await practice.stored()}
        assert [stored[answer.event_id].status for answer in good] == ["pending", "pending", "parked"]
        assert stored[good[1].event_id].headers["x-signature"] == "[masked]"
        assert await door.count("eventsync_requests_refused_total", vendor="intakeq", reason="unknown_token") == 1
        assert await door.count("eventsync_requests_refused_total", vendor="intakeq", reason="wrong_signature") == 2


async def test_the_lane_of_unknown_tokens_is_bounded_and_leaves_room_for_known_ones(
    proxy: TcpProxy, keyring: Keyring, tmp_path: Path, practice: Practice, connection: AddedConnection
) -> None:
    async with restarted(proxy, keyring, tmp_path, Limits(unverified=3)) as door:
        strangers = [await door.post(f"guess-{number}") for number in range(5)]
        assert [answer.status for answer in strangers] == [200, 200, 200, 503, 503]
        known = await door.post(connection.webhook_token)
        assert known.status == 200
        await restore(proxy)
        await drained(door, practice, [known])


async def test_unknown_tokens_wait_only_so_long_for_a_database_that_hangs(
    door: Door, practice: Practice, proxy: TcpProxy
) -> None:
    late = await practice.connect()
    await eventually(lambda: door.listener.is_proven)
    proxy.hold()
    door.book._known = {}  # as in a door that has not heard of the connection yet
    began = time.monotonic()
    answers = await asyncio.gather(*(door.post(token) for token in [late.webhook_token, "a", "b", "c", "d", "e"] * 3))
    assert time.monotonic() - began < BOUND_S
    assert {answer.status for answer in answers} == {200}
    good: list[UUID] = [answer.event_id for answer in answers[::6]]
    await restore(proxy)
    await eventually(lambda: door.spool.stats.waiting_count == 0)
    assert sorted(await practice.stored_ids()) == sorted(good)


async def stored_count(practice: Practice, count: int) -> bool:
    return len(await practice.stored_ids()) == count
