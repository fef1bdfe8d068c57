"""What the outbound queue is for: whatever fails and whoever dies, each organization is registered in its last state.

In full size (`EVENTSYNC_PROVE=1`) the queue has 5,000 items. A tenth of the POSTs goes wrong, and two deliverers are
killed again and again.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import UUID

import asyncpg
import pytest

from e2e.connected_colectiva import connect_colectiva
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import _DIED
from eventsync.sandbox import RunningSandbox, SandboxOptions, serve
from eventsync.sandbox.colectiva.posts import Post
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from servers.eventually import eventually
from stages.bad_luck import BadLuck
from stages.deliverers import Deliverers, delivering
from stages.plenura_at_work import PlenuraAtWork, registered

PROVE = os.environ.get("EVENTSYNC_PROVE") == "1"
ITEMS, ORGANIZATIONS, KILLS = (5_000, 800, 15) if PROVE else (600, 100, 6)
FIRST_SHARE = 0.5  # of the items are there before anybody delivers
PAUSE_S = 0.01  # between two things that people do: about as fast as is delivered
FAULT_SHARE, DOOM_EVERY = 0.1, 60
DELIVERERS = 2
SPEED = 60.0  # the first retry comes after 0.25 to 0.75 s, the second after 1 to 3 s
LEASE_S = 480.0  # of fast time: 8 s, which no attempt takes, even where the machine stands still for a moment
SETTLED_WITHIN_S = 600.0 if PROVE else 90.0
# As seed 000 tells operators to retry one item.
RETRY = "UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0, error_message = NULL WHERE id = $1"

RecordProperty = Callable[[str, object], None]


@dataclass(slots=True)
class Attempts:
    """What the queue's attempts of one item were, of those that count: fallen into an error, or died in."""

    failed: int = 0
    died: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One item as its row stands."""

    id: UUID
    key: str
    org_id: str
    action: str
    status: str
    remote_org_id: str | None
    is_superseded: bool
    attempts: Attempts = field(default_factory=Attempts)


@pytest.mark.timeout(900)
async def test_every_organization_ends_registered_in_its_last_state_though_posts_fail_and_deliverers_are_killed(
    pool: Database,
    keyring: Keyring,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    rng, began_s = Random(5), time.time()
    plenura = PlenuraAtWork(database, rng)
    arguments = (database_url, str(began_s), str(SPEED), str(LEASE_S))
    async with serve(SandboxOptions(vendor="colectiva")) as sandbox, delivering(arguments, tmp_path / "log") as pair:
        colectiva = await connect_colectiva(pool, keyring, sandbox)
        luck = bring_bad_luck(sandbox, colectiva, pair, rng)
        await plenura.begin(ORGANIZATIONS)
        await plenura.queue_items(int(ITEMS * FIRST_SHARE))
        for _ in range(DELIVERERS):
            pair.start()
        await eventually(lambda: len(colectiva.posts) > 0, SETTLED_WITHIN_S)
        await plenura.queue_items(ITEMS, pause_s=PAUSE_S)
        await settled(database)

        items = await items_of(database)
        luck.doom_every = 0
        retried = await retry_what_failed(database)
        ended = await items_of(database)

    assert pair.kills == KILLS
    failures_are_those_of_three_attempts(items, colectiva, luck)
    assert registered(colectiva) == await plenura.states()
    assert_kept(ended, colectiva)
    assert_sent_once(deaths_by_key(items) | deaths_by_key(ended), colectiva)
    assert 2 * KILLS // 3 <= sum(item.attempts.died for item in ended) <= KILLS  # two of three die in an attempt surely
    assert_in_order(items + ended, luck, colectiva)
    assert len(luck.met) > 0.7 * FAULT_SHARE * len(colectiva.posts)
    figures = {
        "items": len(items),
        "organizations": len(colectiva.organizations),
        "posts": len(colectiva.posts),
        "faults": len(luck.met),
        "kills": pair.kills,
        "killed_in_an_attempt": sum(item.attempts.died for item in ended),
        "repeated": sum(repeated(posts) for posts in posts_by_key(colectiva).values()),
        "superseded": sum(item.is_superseded for item in ended),
        "retried_by_hand": retried,
        "seconds": round(time.time() - began_s, 1),
    }
    record_property("registrations", figures)
    print(figures)  # noqa: T201  # shown by `pytest -rP`


def bring_bad_luck(sandbox: RunningSandbox, colectiva: ColectivaVendor, pair: Deliverers, rng: Random) -> BadLuck:
    """Let POSTs fail from now on; the kills are spread over the first half of them."""
    kill_at = [ITEMS * (number + 1) // (2 * KILLS) for number in range(KILLS)]
    luck = BadLuck(colectiva, pair, rng, fault_share=FAULT_SHARE, doom_every=DOOM_EVERY, kill_at=kill_at)
    sandbox.sandbox.gate.script = luck
    return luck


async def settled(database: asyncpg.Connection) -> None:
    """Wait until nothing waits or is on its way."""

    async def nothing_is_unfinished() -> bool:
        statement = "SELECT count(*) FROM ecosystem_sync_queue WHERE status IN ('pending', 'processing')"
        return not await database.fetchval(statement)

    await eventually(nothing_is_unfinished, SETTLED_WITHIN_S)


async def retry_what_failed(database: asyncpg.Connection) -> int:
    """Do what operators do with failed items, until none is left; tell how many there were."""
    count = 0
    while failed := await database.fetch("SELECT id FROM ecosystem_sync_queue WHERE status = 'failed'"):
        for row in failed:
            await database.execute(RETRY, row["id"])
        count += len(failed)
        await settled(database)
    return count


async def items_of(database: asyncpg.Connection) -> list[Item]:
    """Read every item with its attempts."""
    items = {
        row["id"]: Item(
            row["id"],
            str(row["idempotency_key"]),
            row["ecosystem_org_id"],
            row["action"],
            row["status"],
            row["remote_org_id"],
            row["superseded_by"] is not None,
        )
        for row in await database.fetch("SELECT * FROM ecosystem_sync_queue")
    }
    for row in await database.fetch("SELECT * FROM ecosystem_sync_attempts WHERE is_counted AND error IS NOT NULL"):
        attempts = items[row["item_id"]].attempts
        if row["error"] == _DIED:
            attempts.died += 1
        else:
            attempts.failed += 1
    return list(items.values())


def posts_by_key(colectiva: ColectivaVendor) -> Mapping[str | None, list[Post]]:
    found: dict[str | None, list[Post]] = defaultdict(list)
    for post in colectiva.posts:
        found[post.idempotency_key].append(post)
    return found


def failures_are_those_of_three_attempts(items: Iterable[Item], colectiva: ColectivaVendor, luck: BadLuck) -> None:
    """Hold every item's end against the faults that Colectiva knows of: where nobody died, they are the same number."""
    posts = posts_by_key(colectiva)
    for item in items:
        met = [luck.met[post.number] for post in posts[item.key] if post.number in luck.met]
        counted, attempts = sum(fault.is_counted for fault in met), item.attempts
        assert attempts.failed <= counted <= attempts.failed + attempts.died, (item, met)
        if not item.is_superseded:
            expected = "failed" if attempts.failed + attempts.died == 3 else "success"
            assert item.status == expected, (item, met)
    assert any(item.status == "failed" for item in items)


def assert_kept(items: Iterable[Item], colectiva: ColectivaVendor) -> None:
    """Hold that every item ended well, and that each one that was sent knows its organization's id there."""
    assert {item.status for item in items} == {"success"}
    wrong = [
        item
        for item in items
        if not item.is_superseded and item.remote_org_id != colectiva.organizations[item.org_id].id
    ]
    assert not wrong


def deaths_by_key(items: Iterable[Item]) -> dict[str | None, int]:
    """Count the deliverers that died in attempts of each key; one that was retried by hand has a new one."""
    return {item.key: item.attempts.died for item in items}


def assert_sent_once(deaths: Mapping[str | None, int], colectiva: ColectivaVendor) -> None:
    """Hold that only what a death or a lost answer left unknown was sent again."""
    for key, posts in posts_by_key(colectiva).items():
        taken = [post for post in posts if post.is_committed or post.is_replayed]
        lost = sum(not post.is_accepted for post in taken)
        assert sum(post.is_committed for post in posts) <= 1
        assert len({post.body_hash for post in posts}) == 1
        assert len(taken) <= 1 + lost + deaths[key], posts
        assert repeated(posts) <= deaths[key], posts
    assert not any(post.is_overlapping for post in colectiva.posts)


def repeated(posts: Sequence[Post]) -> int:
    """Count those of one key that came although the one before had been answered well."""
    return sum(before.is_accepted for before in posts[:-1])


def assert_in_order(items: Iterable[Item], luck: BadLuck, colectiva: ColectivaVendor) -> None:
    """Hold that nothing overtook a register, and that no organization's state went back."""
    assert all(versions == sorted(versions) for versions in luck.versions.values())
    actions = {item.key: item.action for item in items}
    failed_registers = {item.org_id for item in items if item.action == "register" and item.status == "failed"}
    first: dict[str, str] = {}
    for post in colectiva.posts:
        if post.is_committed:
            first.setdefault(str(post.app_org_id), actions[str(post.idempotency_key)])
    assert first.keys() == colectiva.organizations.keys()
    late = {org_id for org_id, action in first.items() if action != "register"}
    assert {first[org_id] for org_id in late} <= {"deactivate"}
    assert late <= failed_registers
