"""The spool's promise: what was put is there, in order, once, sealed, whatever becomes of the process or the disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from eventsync.crypto import KEY_BYTES, Keyring, hash_token
from eventsync.domain.connections import ConnectionId, HmacCheck, SignatureEncoding, WebhookVerifier
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Lane, new_event_id
from eventsync.spool.entries import UnverifiedEvent
from eventsync.spool.errors import SpoolFull, SpoolUnavailable
from eventsync.spool.file import SpoolFile
from eventsync.spool.spool import Spool

KEY = b"k" * KEY_BYTES
KEYRING = Keyring([KEY])
NOON = datetime(2025, 6, 2, 12, 0, tzinfo=UTC)
CONNECTION = ConnectionId(UUID(int=7))
KIB = 1024


def event(number: int, body: bytes = b"{}", *, seconds: float = 0.0) -> IncomingEvent:
    return IncomingEvent(
        id=new_event_id(NOON + timedelta(seconds=seconds), number.to_bytes(10, "big")),
        connection_id=CONNECTION,
        vendor="intakeq",
        source=EventSource.WEBHOOK,
        headers=(("Content-Type", "application/json"),),
        body=body,
    )


def unverified(number: int, body: bytes = b"{}") -> UnverifiedEvent:
    return UnverifiedEvent(
        id=new_event_id(NOON, number.to_bytes(10, "big")),
        vendor="intakeq",
        token_hash=hash_token("sample-token"),
        headers=(("X-Signature", "sha256=00ff"),),
        body=body,
        remote_address="192.0.2.7",
    )


def make(path: Path, *, keyring: Keyring = KEYRING, **options: object) -> Spool:
    return Spool(path, keyring, clock=lambda: NOON, **options)  # type: ignore[arg-type]  # the options are Spool's own


@asynccontextmanager
async def opened(path: Path, *, keyring: Keyring = KEYRING, **options: object) -> AsyncIterator[Spool]:
    spool = make(path, keyring=keyring, **options)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool.db"


async def fill(spool: Spool, *, body_bytes: int, seconds: float = 0.0) -> list[IncomingEvent]:
    """Put events until there is no room, and give those that were taken."""
    taken: list[IncomingEvent] = []
    while True:
        one = event(len(taken), os.urandom(body_bytes), seconds=seconds + len(taken))
        try:
            await spool.put([one])
        except SpoolFull:
            return taken
        taken.append(one)


async def drain(spool: Spool) -> list[IncomingEvent]:
    drained: list[IncomingEvent] = []
    while batch := await spool.oldest(50):
        drained += batch
        await spool.forget([one.id for one in batch])
    return drained


def size_bytes(path: Path) -> int:
    return path.stat().st_size


def contents(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def ids(events: Sequence[IncomingEvent] | Sequence[UnverifiedEvent]) -> list[EventId]:
    return [one.id for one in events]


async def test_what_was_put_comes_back_whole_after_a_restart(path: Path) -> None:
    whole = IncomingEvent(
        id=new_event_id(NOON, b"0123456789"),
        connection_id=CONNECTION,
        vendor="intakeq",
        source=EventSource.REPLAY,
        headers=(("Content-Type", "text/plain"), ("X-Odd", "\udcff\x00é")),
        body=b"\x00\xff\xfe not utf-8 \\u0000",
        parked_reason="not_json",
        lane=Lane.BULK,
        caused_by=new_event_id(NOON, b"9876543210"),
    )
    async with opened(path) as spool:
        await spool.put([whole])
    async with opened(path) as spool:
        assert await spool.oldest(10) == [whole]


async def test_events_come_back_oldest_first_whatever_order_they_were_put_in(path: Path) -> None:
    async with opened(path) as spool:
        for seconds in (3, 1, 2, 5, 4):
            await spool.put([event(seconds, seconds=seconds)])
        assert [one.received_at for one in await spool.oldest(10)] == [NOON + timedelta(seconds=s) for s in range(1, 6)]
        assert ids(await spool.oldest(2)) == [event(1, seconds=1).id, event(2, seconds=2).id]


async def test_the_same_id_put_twice_is_kept_once(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1), event(1)])
        await asyncio.gather(spool.put([event(1)]), spool.put([event(1)]))
        assert await spool.oldest(10) == [event(1)]
        assert spool.stats.count == 1


async def test_forgotten_events_are_gone_and_unknown_ids_are_ignored(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1), event(2)])
        await spool.forget([event(1).id, event(99).id])
        await spool.forget([event(1).id])
        assert await spool.oldest(10) == [event(2)]
        assert spool.stats.count == 1


async def test_large_events_are_read_a_few_at_a_time_and_all_of_them_in_the_end(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(number, bytes(1024 * KIB)) for number in range(10)])
        first = await spool.oldest(10)
        assert 0 < len(first) < 10
        assert len(await drain(spool)) == 10


async def test_concurrent_puts_share_transactions(path: Path) -> None:
    async with opened(path) as spool:
        await asyncio.gather(*(spool.put([event(number)]) for number in range(200)))
        assert spool.stats.count == 200
        assert spool.stats.put_transactions < 100


async def test_a_put_that_was_cancelled_leaves_the_others_durable(path: Path) -> None:
    async with opened(path) as spool:
        puts = [asyncio.ensure_future(spool.put([event(number)])) for number in range(300)]
        await asyncio.sleep(0)  # lets each begin, so that cancelling hits them in the middle
        for put in puts[::2]:
            put.cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        kept = {one.id for one in await spool.oldest(1000)}
        assert {event(number).id for number in range(1, 300, 2)} <= kept


_PUT_FOR_EVER = """
    import asyncio, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from uuid import UUID
    from eventsync.crypto import Keyring
    from eventsync.domain.events import EventSource, IncomingEvent, new_event_id
    from eventsync.spool.spool import Spool

    async def putter(spool, lane):
        number = 0
        while True:
            number += 1
            entropy = lane.to_bytes(2, "big") + number.to_bytes(8, "big")
            one = IncomingEvent(new_event_id(datetime.now(UTC), entropy), UUID(int=7), "intakeq", EventSource.WEBHOOK,
                                (), b"x" * (number * 37 % 9000))
            await spool.put([one])
            sys.stdout.write(f"{one.id}\\n")
            sys.stdout.flush()

    async def main():
        spool = Spool(Path(sys.argv[1]), Keyring([b"k" * 32]), clock=lambda: datetime.now(UTC))
        await spool.open()
        await asyncio.gather(*(putter(spool, lane) for lane in range(8)))

    asyncio.run(main())
"""


async def test_every_put_that_returned_is_there_after_the_process_was_killed_in_the_middle(path: Path) -> None:
    with subprocess.Popen(  # noqa: ASYNC220, S603 - our own program; the test waits for nothing else meanwhile
        [sys.executable, "-c", textwrap.dedent(_PUT_FOR_EVER), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        returned = [process.stdout.readline() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        returned += process.stdout.readlines()
    promised = {UUID(line.strip()) for line in returned if line.endswith("\n")}
    assert len(promised) >= 300
    async with opened(path) as spool:
        assert promised <= {one.id for one in await drain(spool)}
        assert spool.stats.damaged_files == ()


async def test_a_full_spool_says_so_then_drains_and_takes_events_again(path: Path) -> None:
    async with opened(path, max_bytes=512 * KIB) as spool:
        taken = await fill(spool, body_bytes=3 * KIB)
        assert len(taken) > 50
        assert spool.stats.fullness > 0.9
        assert spool.stats.refused_count == 1
        with pytest.raises(SpoolFull, match="bring PostgreSQL back") as caught:
            await spool.put([event(500_000, os.urandom(8 * KIB))])
        assert isinstance(caught.value, Transient)
        assert await drain(spool) == taken
        assert spool.stats.fullness < 0.2
        again = await fill(spool, body_bytes=3 * KIB, seconds=1_000_000)
        assert len(again) == len(taken)


async def test_the_file_stays_within_its_bound(path: Path) -> None:
    async with opened(path, max_bytes=512 * KIB) as spool:
        await fill(spool, body_bytes=10 * KIB)
    assert size_bytes(path) <= 512 * KIB


async def test_the_disk_gets_its_space_back_once_the_spool_is_empty(path: Path) -> None:
    async with opened(path, max_bytes=4096 * KIB) as spool:
        await fill(spool, body_bytes=50 * KIB)
        await drain(spool)
        assert size_bytes(path) < 100 * KIB


async def test_what_was_forgotten_leaves_the_disk(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1), event(2)])
        await spool.forget([event(1).id])
    assert event(1).id.bytes not in contents(path)
    assert event(2).id.bytes in contents(path)


def test_every_commit_waits_for_the_disk(path: Path) -> None:
    file = SpoolFile(path, 1024 * KIB)
    with closing(file):
        assert file._integer("PRAGMA synchronous") == 2  # FULL
        assert file._integer("PRAGMA fullfsync") == 1
        assert file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_restart_of_a_full_spool_drains_it(path: Path) -> None:
    async with opened(path, max_bytes=512 * KIB) as spool:
        taken = await fill(spool, body_bytes=3 * KIB)
    async with opened(path, max_bytes=256 * KIB) as spool:  # even when the bound was lowered meanwhile
        assert spool.stats.count == len(taken)
        assert spool.stats.fullness == 1.0
        assert await drain(spool) == taken
        await spool.put([event(1)])


async def test_of_a_group_that_does_not_fit_those_that_fit_are_taken(path: Path) -> None:
    async with opened(path, max_bytes=512 * KIB) as spool:
        small = [spool.put([event(number)]) for number in range(20)]
        large = spool.put([event(1000, os.urandom(1024 * KIB))])
        *outcomes, refused = await asyncio.gather(*small, large, return_exceptions=True)
        assert outcomes == [None] * 20
        assert isinstance(refused, SpoolFull)
        assert len(await drain(spool)) == 20


async def test_a_put_of_several_events_is_all_or_none(path: Path) -> None:
    async with opened(path, max_bytes=512 * KIB) as spool:
        with pytest.raises(SpoolFull):
            await spool.put([event(1), event(2, os.urandom(1024 * KIB))])
        assert await spool.oldest(10) == []
        assert spool.stats.count == 0


async def test_a_nearly_full_disk_refuses_early_while_draining_goes_on(path: Path) -> None:
    free = [1024 * 1024 * KIB]
    async with opened(path, free_bytes=lambda _: free[0]) as spool:
        await spool.put([event(1)])
        free[0] = 1024 * KIB
        with pytest.raises(SpoolFull, match="free space"):
            await spool.put([event(2)])
        with pytest.raises(SpoolFull):
            await spool.put_unverified(unverified(3))
        assert spool.stats.refused_count == 2
        assert await drain(spool) == [event(1)]
        free[0] = 1024 * 1024 * KIB
        await spool.put([event(2)])


async def test_a_folder_that_vanished_is_unavailable_and_not_a_crash(path: Path) -> None:
    async with opened(path) as spool:
        path.parent.rename(path.parent.with_name("elsewhere"))
        with pytest.raises(SpoolUnavailable, match="rights of its folder"):
            await spool.put([event(1)])


async def test_the_folder_shows_neither_a_body_nor_a_header_nor_a_secret(path: Path) -> None:
    secret = IncomingEvent(
        id=event(1).id,
        connection_id=CONNECTION,
        vendor="intakeq",
        source=EventSource.WEBHOOK,
        headers=(("X-Sample", "header-value-of-test-client-12"),),
        body=b'{"ClientName": "Test Client 12", "ClientEmail": "client12@example.test"}',
    )
    verifier = WebhookVerifier(b"h" * 32, CONNECTION, "intakeq", HmacCheck("X-Signature", ("hmac-secret-value",)))
    async with opened(path) as spool:
        await spool.put([secret])
        await spool.put_unverified(unverified(2, b"unverified-body-of-test-client-13"))
        await spool.remember_verifiers([verifier])
        written = contents(path)
    written += contents(path)
    for plain in (b"Test Client", b"client12@", b"header-value", b"test-client-13", b"hmac-secret", b"192.0.2.7"):
        assert plain not in written
    assert secret.id.bytes in written  # so the right files were read


async def test_only_the_owner_can_read_the_spool(path: Path) -> None:
    await asyncio.to_thread(path.parent.mkdir)
    await asyncio.to_thread(path.touch, 0o644)
    async with opened(path) as spool:
        await spool.put([event(1)])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "spool.db-wal" in modes


async def test_a_second_opener_is_refused_until_the_first_has_closed(path: Path) -> None:
    async with opened(path) as first:
        await first.put([event(1)])
        second = make(path)
        with pytest.raises(Misconfigured, match=r"another process uses the spool.*EVENTSYNC_DATA_DIR"):
            await second.open()
        await second.close()
        assert await first.oldest(10) == [event(1)]
    async with opened(path) as third:
        assert await third.oldest(10) == [event(1)]


async def test_a_folder_that_cannot_be_made_is_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    spool = make(tmp_path / "data" / "spool.db")
    with pytest.raises(Misconfigured, match="EVENTSYNC_DATA_DIR"):
        await spool.open()
    await spool.close()


async def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1)])
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    later = make(path)
    with pytest.raises(Misconfigured, match="later eventsync"):
        await later.open()
    await later.close()
    assert [file.name for file in path.parent.glob("*damaged*")] == []


async def test_a_closed_spool_refuses_and_closing_twice_is_fine(path: Path) -> None:
    async with opened(path) as spool:
        await spool.close()
        with pytest.raises(SpoolUnavailable):
            await spool.put([event(1)])
        await spool.close()


async def test_a_spool_that_was_never_opened_refuses(path: Path) -> None:
    spool = make(path)
    with pytest.raises(SpoolUnavailable, match="not open"):
        await spool.put([event(1)])
    await spool.close()


async def test_stats_tell_what_waits_and_since_when(path: Path) -> None:
    async with opened(path) as spool:
        assert (spool.stats.count, spool.stats.waiting_count, spool.stats.oldest_received_at) == (0, 0, None)
        await spool.put([event(1, seconds=60), event(2, seconds=30)])
        await spool.put_unverified(unverified(3))
        before = spool.stats
        assert (before.count, before.unverified_count, before.waiting_count) == (2, 1, 3)
        assert before.oldest_received_at == NOON
        assert 0 < before.fullness < 0.01
        await spool.forget([unverified(3).id])
        assert spool.stats.oldest_received_at == NOON + timedelta(seconds=30)
    async with opened(path) as spool:
        assert (spool.stats.count, spool.stats.oldest_received_at) == (2, NOON + timedelta(seconds=30))


async def test_the_last_set_of_verifiers_is_known_after_a_restart(path: Path) -> None:
    first = WebhookVerifier(
        token_hash=hash_token("one"),
        connection_id=CONNECTION,
        vendor="intakeq",
        hmac=HmacCheck("X-Signature", ("new", "old"), SignatureEncoding.BASE64, "sha256="),
        allowed_networks=("192.0.2.0/24", "2001:db8::/32"),
        expires_at=NOON + timedelta(hours=1, microseconds=7),
    )
    second = WebhookVerifier(hash_token("two"), ConnectionId(UUID(int=8)), "colectiva")
    async with opened(path) as spool:
        assert await spool.verifiers() == ()
        await spool.remember_verifiers([second])
        await spool.remember_verifiers([first, second])
        assert await spool.verifiers() == (first, second)
    async with opened(path) as spool:
        assert await spool.verifiers() == (first, second)
        await spool.remember_verifiers([])
    async with opened(path) as spool:
        assert await spool.verifiers() == ()


async def test_verifiers_are_remembered_even_when_the_spool_is_full(path: Path) -> None:
    verifier = WebhookVerifier(hash_token("one"), CONNECTION, "intakeq", HmacCheck("X-Signature", ("s" * 20_000,)))
    async with opened(path, max_bytes=256 * KIB) as spool:
        await fill(spool, body_bytes=1)
        await spool.remember_verifiers([verifier])
    async with opened(path, max_bytes=256 * KIB) as spool:
        assert await spool.verifiers() == (verifier,)


async def test_requests_with_unknown_tokens_wait_in_a_lane_of_their_own(path: Path) -> None:
    async with opened(path) as spool:
        await spool.put([event(1)])
        await spool.put_unverified(unverified(2, b"\x00\xff"))
    async with opened(path) as spool:
        assert await spool.oldest(10) == [event(1)]
        assert await spool.oldest_unverified(10) == [unverified(2, b"\x00\xff")]
        await spool.forget([unverified(2).id])
        assert await spool.oldest_unverified(10) == []
        assert await spool.oldest(10) == [event(1)]


async def test_the_lane_for_unknown_tokens_is_capped_and_frees_up(path: Path) -> None:
    async with opened(path, max_unverified=3) as spool:
        for number in range(3):
            await spool.put_unverified(unverified(number))
        with pytest.raises(SpoolFull, match="unknown tokens"):
            await spool.put_unverified(unverified(3))
        await spool.put([event(4)])
        await spool.forget([unverified(0).id])
        await spool.put_unverified(unverified(3))
    async with opened(path, max_unverified=3) as spool:
        with pytest.raises(SpoolFull):
            await spool.put_unverified(unverified(5))


async def test_strangers_cannot_take_the_room_of_our_own_vendors(path: Path) -> None:
    async with opened(path, max_bytes=1024 * KIB) as spool:
        outcomes = await asyncio.gather(
            *(spool.put_unverified(unverified(number, os.urandom(30 * KIB))) for number in range(100)),
            return_exceptions=True,
        )
        assert 0 < outcomes.count(None) < 10
        assert spool.stats.fullness < 0.25
        assert len(await fill(spool, body_bytes=30 * KIB)) > 15


async def test_the_cap_holds_against_many_at_once(path: Path) -> None:
    async with opened(path, max_unverified=5) as spool:
        outcomes = await asyncio.gather(
            *(spool.put_unverified(unverified(number)) for number in range(50)), return_exceptions=True
        )
        assert outcomes.count(None) == 5
        assert spool.stats.unverified_count == 5
