"""The outbound queue, whose rows are the truth: what is to be sent next, and how each attempt ended.

Stands between the triggers and people that fill `ecosystem_sync_queue` and stages/deliver, which works it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from typing import Any
from uuid import UUID, uuid4

import orjson

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import MAX_ATTEMPTS, Action, ItemId, ItemStatus, OutboundItem, OutboundMeasure
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

_HELD_AT_ONCE = 1000
_DIED = "The deliverer died while it sent this: nobody knows whether it arrived."
_GIVEN_UP = f"{_DIED} It was the last of {MAX_ATTEMPTS} attempts: put the item back to pending to try again."
_UNREADABLE = "The payload cannot be read, nothing was sent: correct it and put the item back to pending."


@dataclass(frozen=True, slots=True)
class _Sql:
    lock_claims: str
    find_account: str
    begin_probe: str
    next_head: str
    hold_back: str
    lock_organization: str
    last_reached: str
    put_back: str
    supersede: str
    claim: str
    succeed: str
    fail: str
    put_off: str
    note_attempt: str
    find_end: str
    pause: str
    resume: str
    find_stuck: str
    return_stuck: str
    next_due: str
    preview: str
    count_unfinished: str
    count_failed: str
    oldest_waiting: str
    list_pauses: str


SQL = load_statements(_Sql, "outbound.sql")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make one attempt. `attempts` counts it; `claim_id` is the fence that its end must pass.

    `superseded` are the items whose news this one carries as well. A probe is what a paused queue sends now and then.
    """

    item: OutboundItem
    claim_id: UUID
    attempts: int
    claimed_at: datetime
    is_probe: bool = False
    superseded: tuple[ItemId, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """An item as it stands before the others of its organization; `behind` counts those that wait for it."""

    item: OutboundItem
    attempts: int
    available_at: datetime | None
    behind: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """An item whose deliverer died: `is_given_up` where no attempt was left."""

    id: ItemId
    attempts: int
    is_given_up: bool


class OutboundQueue:
    """`ecosystem_sync_queue`. Every method raises Transient (DatabaseAway) while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, connection_id: ConnectionId, now: datetime, leased_until: datetime) -> Claim | None:
        """Take the item that has been due longest, and count the attempt; None where nothing may be sent now.

        Updates that wait behind it are collapsed into the last, which is then the one taken. Where the account is
        paused, one item is given out as a probe when that is due, and until `leased_until` no other.
        """
        async with self._database.transaction() as session:
            await session.execute(SQL.lock_claims)
            account = await session.fetchrow(SQL.find_account, connection_id, now)
            if account is None or account["is_closed"]:
                return None
            taken = await _take(session, now, leased_until)
            if taken is None:
                return None
            if account["is_paused"]:
                await session.execute(SQL.begin_probe, connection_id, leased_until, account["updated_at"])
        return replace(taken, is_probe=account["is_paused"])

    async def succeed(
        self, claim: Claim, remote_org_id: str | None, http_status: int, now: datetime
    ) -> datetime | None:
        """End the item well. Answers when it was created; None where the claim has been lost: nothing is written."""
        async with self._database.transaction() as session:
            row = await session.fetchrow(SQL.succeed, claim.item.id, claim.claim_id, now, remote_org_id)
            return await _ended(session, claim, row, now, http_status, None)

    async def fail(
        self, claim: Claim, error: str, http_status: int | None, now: datetime, *, may_have_arrived: bool = False
    ) -> bool:
        """End the item as failed, having been refused unless it `may_have_arrived`. False where the claim is lost."""
        async with self._database.transaction() as session:
            row = await session.fetchrow(SQL.fail, claim.item.id, claim.claim_id, now, error, may_have_arrived)
            return await _ended(session, claim, row, now, http_status, error) is not None

    async def put_off(
        self,
        claim: Claim,
        error: str,
        http_status: int | None,
        now: datetime,
        *,
        until: datetime | None,
        is_counted: bool,
    ) -> bool:
        """Let the item wait for its next attempt (`until` None: at once). False where the claim has been lost."""
        async with self._database.transaction() as session:
            row = await session.fetchrow(
                SQL.put_off, claim.item.id, claim.claim_id, until, error, 0 if is_counted else 1, now
            )
            return await _ended(session, claim, row, now, http_status, error, is_counted=is_counted) is not None

    async def pause(self, connection_id: ConnectionId, reason: str, now: datetime, probe_at: datetime) -> bool:
        """Halt the queue until a probe succeeds. Answers whether it was not halted before."""
        async with self._database.session() as session:
            return bool(await session.fetchval(SQL.pause, connection_id, reason, now, probe_at))

    async def resume(self, connection_id: ConnectionId) -> datetime | None:
        """Let the queue go on. Answers since when it had been halted, None where it was not."""
        async with self._database.session() as session:
            paused_at: datetime | None = await session.fetchval(SQL.resume, connection_id)
        return paused_at

    async def return_stuck(self, now: datetime) -> list[Stuck]:
        """Put back the items whose deliverers died or, where no attempt is left to one, end it as failed."""
        async with self._database.transaction() as session:
            rows = await session.fetch(SQL.find_stuck, now)
            found = [Stuck(row["id"], row["attempts"], row["attempts"] >= MAX_ATTEMPTS) for row in rows]
            for given_up, message in ((False, _DIED), (True, _GIVEN_UP)):
                ids = [stuck.id for stuck in found if stuck.is_given_up is given_up]
                if ids:
                    await session.execute(SQL.return_stuck, ids, now, MAX_ATTEMPTS, message)
            for row in rows:
                attempt = (row["id"], None, row["attempts"], True, row["last_attempt_at"], now, None, _DIED)
                await session.execute(SQL.note_attempt, *attempt)
        return found

    async def next_due(self, now: datetime) -> datetime | None:
        """Tell when there will be something to do although nobody rings; None where nothing is foreseen."""
        async with self._database.session() as session:
            due_at: datetime | None = await session.fetchval(SQL.next_due, now)
        return due_at

    async def preview(self, at_most: int) -> list[Preview]:
        """List what would be sent, in the order of being due, those that wait for their next attempt included."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.preview, at_most)
        read = [(_item(row), row) for row in rows]
        return [Preview(item, row["attempts"], row["available_at"], row["behind"]) for item, row in read if item]

    async def measure(self) -> OutboundMeasure:
        """Tell how the queue stands; of what has ended, only what failed is counted."""
        async with self._database.session() as session:
            counts = {ItemStatus.PENDING: 0, ItemStatus.PROCESSING: 0}
            counts |= {ItemStatus(row["status"]): row["count"] for row in await session.fetch(SQL.count_unfinished)}
            counts[ItemStatus.FAILED] = await session.fetchval(SQL.count_failed)
            waiting_since = await session.fetchval(SQL.oldest_waiting)
            pause = await session.fetchrow(SQL.list_pauses)
        if pause is None:
            return OutboundMeasure(counts, waiting_since)
        return OutboundMeasure(counts, waiting_since, pause["paused_at"], pause["reason"])


@dataclass(frozen=True, slots=True)
class _Choice:
    """The item to be sent next, and what ends with it."""

    id: ItemId
    waiting_since: datetime
    superseded: tuple[ItemId, ...]


async def _take(session: Session, now: datetime, leased_until: datetime) -> Claim | None:
    """Claim the item to be sent next; one that nobody can read fails at once, and the next one is taken."""
    while (chosen := await _choose(session, now)) is not None:
        claim_id = uuid4()
        row = await session.fetchrow(SQL.claim, chosen.id, claim_id, now, leased_until, chosen.waiting_since)
        item = _item(row)
        if item is not None:
            return Claim(item, claim_id, row["attempts"], now, superseded=chosen.superseded)
        await session.execute(SQL.fail, chosen.id, claim_id, now, _UNREADABLE, False)
    return None


async def _choose(session: Session, now: datetime) -> _Choice | None:
    """Find the item to be sent next, ending those that tell less than the other side has seen since.

    An organization of which an item is on its way waits for that, and one of which somebody is editing a waiting item
    as well: it may be what is to be sent instead.
    """
    busy: list[str] = []
    while (head := await _next_head(session, now, busy)) is not None:
        organization = head["ecosystem_org_id"]
        waiting = await session.fetch(SQL.lock_organization, organization)
        if not all(row["is_ours"] for row in waiting):
            busy.append(organization)
        elif outdated := await _outdated(session, organization, waiting):
            ids, reached_id = outdated
            await session.execute(SQL.supersede, ids, reached_id, now)
        else:
            return await _collapse(session, waiting, now)
    return None


async def _next_head(session: Session, now: datetime, busy: Sequence[str]) -> Any | None:
    """Find the item that has been due longest and stands first in its organization; `busy` ones are left out.

    Many that stand in front of it, behind earlier ones of their organizations, are put out of the next one's way.
    """
    head = await session.fetchrow(SQL.next_head, now, busy)
    if head is None or head["is_crowded"]:
        await session.execute(SQL.hold_back, now, _HELD_AT_ONCE)
    return head


async def _outdated(session: Session, organization: str, waiting: Sequence[Any]) -> tuple[list[ItemId], ItemId] | None:
    """Find what people put back although the other side has seen a later item, or may have; that is answered as well.

    Where the later one failed, nobody knows whether it arrived: it goes out anew in the place of the older ones.
    """
    reached = await session.fetchrow(SQL.last_reached, organization)
    ids = [row["id"] for row in waiting if reached is not None and row["position"] < reached["position"]]
    if not ids:
        return None
    if reached["is_failed"]:
        await session.execute(SQL.put_back, reached["id"])
    return ids, reached["id"]


async def _collapse(session: Session, waiting: Sequence[Any], now: datetime) -> _Choice:
    """Choose the first item or, where updates wait one behind the other from there on, the last of them.

    The others end as superseded, although the last may fail yet: that shows, and what it tells is newer.
    """
    *before, last = list(takewhile(lambda row: row["action"] == Action.UPDATE, waiting)) or waiting[:1]
    superseded = tuple(ItemId(row["id"]) for row in before)
    if superseded:
        await session.execute(SQL.supersede, superseded, last["id"], now)
    return _Choice(last["id"], min(row["waiting_since"] for row in (*before, last)), superseded)


async def _ended(
    session: Session,
    claim: Claim,
    row: Any | None,
    now: datetime,
    http_status: int | None,
    error: str | None,
    *,
    is_counted: bool = True,
) -> datetime | None:
    """Note the attempt, and answer when its item was created; None where the claim was lost before it ended."""
    if row is None:
        ended_before: datetime | None = await session.fetchval(SQL.find_end, claim.item.id, claim.claim_id)
        return ended_before
    attempt = (claim.claim_id, claim.attempts, is_counted, claim.claimed_at, now, http_status, error)
    await session.execute(SQL.note_attempt, claim.item.id, *attempt)
    created_at: datetime = row["created_at"]
    return created_at


def _item(row: Any) -> OutboundItem | None:
    try:
        payload = orjson.loads(row["payload"])
    except orjson.JSONDecodeError:  # jsonb holds numbers and depths that no JSON reader takes
        return None
    return OutboundItem(
        id=ItemId(row["id"]),
        entity_type=row["entity_type"],
        ecosystem_org_id=row["ecosystem_org_id"],
        action=Action(row["action"]),
        payload=payload,
        idempotency_key=row["idempotency_key"],
    )
