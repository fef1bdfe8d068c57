"""Sends the outbound queue's items to the registry, one attempt at a time, and writes how each one ended.

Stands between postgres/outbound, whose rows are the truth, and a registry vendor's client. An attempt is counted and
leased before it begins: a deliverer that dies leaves an item that others take up once its lease is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import (
    MAX_ATTEMPTS,
    Accepted,
    Answer,
    Deferred,
    Failed,
    Halted,
    Refused,
    retry_wait,
)
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.outbound import Claim, OutboundQueue, Stuck
from eventsync.stages.cancellation import finish_before_cancel
from eventsync.stages.holding import hold_while_away
from eventsync.stages.rest import Rest
from eventsync.telemetry import Metrics, origin_of
from eventsync.vendorkit.registry import Registry

_LEASE_S = 60.0
_LEAST_LEFT = 0.75  # of the lease, to begin with: the longest wait for a place in the budget, then a POST of 15 s
_MARGIN = 0.1  # of the lease: what was sent has ended before another deliverer may send it again
_GRACE_S = 16.0  # for the attempt that is under way when its worker is stopped: a POST, and its end
_PROBE_EVERY = timedelta(minutes=1)
_LONGEST_ERROR = 1000  # characters
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryAccount:
    """The account that items are sent to: the same `registry` as long as its connection is unchanged."""

    connection_id: ConnectionId
    registry: Registry


OpenRegistry = Callable[[], Awaitable[RegistryAccount | None]]
"""Answers the account as it is now; None where there is none. Raises Transient, Misconfigured."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt and its end.

    `is_kept` is False where the claim was lost meanwhile, as when a person put the item back: then nothing was written.
    `next_try_at` is set where the item waits for another attempt, or the whole queue for a probe.
    """

    claim: Claim
    answer: Answer
    is_kept: bool
    next_try_at: datetime | None = None


class Deliverer:
    """Makes one attempt at a time, so that its death can repeat one POST at most.

    `random` spreads the waits; `monotonic` answers seconds that no clock's setting moves. An attempt that is under way
    when its task is cancelled has `grace_s` seconds to end; beyond them its outcome is unknown, and the item waits for
    its lease to end as after a death: the attempt counts, and the next one has the same idempotency key.
    """

    def __init__(
        self,
        queue: OutboundQueue,
        open_registry: OpenRegistry,
        clock: Clock,
        random: Random,
        *,
        metrics: Metrics | None = None,
        lease_s: float = _LEASE_S,
        grace_s: float = _GRACE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._open_registry = open_registry
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._monotonic = monotonic
        self._rest = Rest(monotonic)
        self._registry: Registry | None = None

    @property
    def resting_s(self) -> float:
        """How long this deliverer sends nothing yet, for what the last answers were; 0.0 where it may."""
        return self._rest.left_s

    async def deliver_next(self) -> Delivery | None:
        """Make one attempt with the item that is due first; None where nothing may be sent now.

        Once the item is claimed, its end is written however long PostgreSQL is away. Raises Transient or Misconfigured
        where PostgreSQL is away or refuses us before that, or where the account cannot be opened.
        """
        account = await self._open_registry()
        if account is None:
            return None
        if account.registry is not self._registry:  # what was wrong with the account may have been mended
            self._registry = account.registry
            self._rest.end()
        if self._rest.left_s > 0.0:
            return None
        return await finish_before_cancel(self._attempt(account), grace_s=self._grace_s)

    async def return_stuck(self) -> list[Stuck]:
        """Put back the items of deliverers that died. Raises Transient while PostgreSQL is away."""
        found = await self._queue.return_stuck(self._clock())
        for stuck in found:
            event = "outbound_item_given_up" if stuck.is_given_up else "outbound_item_returned"
            _log.warning(event, item_id=str(stuck.id), attempts=stuck.attempts)
        return found

    async def _attempt(self, account: RegistryAccount) -> Delivery | None:
        began_s, now = self._monotonic(), self._clock()
        claim = await self._queue.claim(account.connection_id, now, now + timedelta(seconds=self._lease_s))
        if claim is None:
            return None
        answer = await self._answer(account.registry, claim, began_s)
        delivery = await self._end(account, claim, answer)
        self._tell(delivery)
        return delivery

    async def _answer(self, registry: Registry, claim: Claim, began_s: float) -> Answer:
        """Send the item while the lease stands, and note what its answer means for the next ones."""
        left_s = self._lease_left_s(claim, began_s)
        if left_s < _LEAST_LEFT * self._lease_s:
            return Deferred("The process stood still between the claim and the attempt: nothing was sent.")
        try:
            async with asyncio.timeout(left_s - _MARGIN * self._lease_s):
                answer = await registry.deliver(claim.item)
        except TimeoutError:
            answer = Failed("The attempt outlived its lease: nobody knows whether it arrived.")
        except (Transient, Misconfigured) as error:  # the budget's ledger: nothing was sent
            answer = Deferred(str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours in one item must not stop the queue
            name = type(error).__name__
            _log.error("outbound_item_broke_off", item_id=str(claim.item.id), exception=name, where=origin_of(error))
            return Failed(f"internal error ({name})")  # the item's alone: the others need no rest from it
        self._rest.note(answer)
        return answer

    def _lease_left_s(self, claim: Claim, began_s: float) -> float:
        """Tell how long others leave the item alone, by whichever clock moved more: one of them stops in sleep."""
        by_clock_s = (self._clock() - claim.claimed_at).total_seconds()
        return self._lease_s - max(self._monotonic() - began_s, by_clock_s)

    async def _end(self, account: RegistryAccount, claim: Claim, answer: Answer) -> Delivery:
        is_kept, next_try_at = await self._written(account, claim, answer)
        if claim.is_probe and isinstance(answer, Accepted | Refused):
            await self._resume(account)
        return Delivery(claim, answer, is_kept, next_try_at if is_kept else None)

    async def _written(self, account: RegistryAccount, claim: Claim, answer: Answer) -> tuple[bool, datetime | None]:
        match answer:
            case Accepted():
                return await self._succeed(claim, answer), None
            case Refused():
                return await self._fail(claim, answer), None
            case Failed():
                return await self._try_later(claim, answer)
            case Deferred():
                # Due at once, behind the others: it is this deliverer that waits, until the account is mended.
                now = self._clock()
                next_try_at = now + timedelta(seconds=self._rest.left_s)
                return await self._put_off(claim, answer, now, is_counted=False), next_try_at
            case Halted():
                return await self._halt(account, claim, answer)

    async def _succeed(self, claim: Claim, answer: Accepted) -> bool:
        remote_org_id = None if answer.remote_org_id is None else _storable(answer.remote_org_id)
        created_at = await hold_while_away(
            lambda: self._queue.succeed(claim, remote_org_id, answer.http_status, self._clock())
        )
        if created_at is not None and self._metrics is not None:
            self._metrics.outbound_delivery_seconds.observe(max((self._clock() - created_at).total_seconds(), 0.0))
        return created_at is not None

    async def _fail(self, claim: Claim, answer: Refused | Failed) -> bool:
        fail = partial(self._queue.fail, claim, _storable(answer.message), answer.http_status)
        return await hold_while_away(lambda: fail(self._clock(), may_have_arrived=isinstance(answer, Failed)))

    async def _try_later(self, claim: Claim, answer: Failed) -> tuple[bool, datetime | None]:
        if claim.attempts >= MAX_ATTEMPTS:
            return await self._fail(claim, answer), None
        until = self._clock() + retry_wait(claim.attempts, self._random, answer.retry_after_s)
        return await self._put_off(claim, answer, until, is_counted=True), until

    async def _put_off(
        self, claim: Claim, answer: Failed | Deferred | Halted, until: datetime, *, is_counted: bool
    ) -> bool:
        write = partial(self._queue.put_off, claim, _storable(answer.message), answer.http_status)
        return await hold_while_away(lambda: write(self._clock(), until=until, is_counted=is_counted))

    async def _halt(self, account: RegistryAccount, claim: Claim, answer: Halted) -> tuple[bool, datetime]:
        """Let the queue wait for a probe, before the item is due again: others must not burn theirs meanwhile.

        The item goes behind the others: where it alone is refused, the probe must not be this one for ever.
        """
        now = self._clock()
        pause = partial(self._queue.pause, account.connection_id, _storable(answer.message), now, now + _PROBE_EVERY)
        if await hold_while_away(pause):
            connection_id = str(account.connection_id)
            _log.error("outbound_paused", connection_id=connection_id, status=answer.http_status, error=answer.message)
        return await self._put_off(claim, answer, now, is_counted=False), now + _PROBE_EVERY

    async def _resume(self, account: RegistryAccount) -> None:
        paused_at = await hold_while_away(partial(self._queue.resume, account.connection_id))
        if paused_at is not None:
            connection_id = str(account.connection_id)
            _log.info("outbound_resumed", connection_id=connection_id, paused_at=paused_at.isoformat())

    def _tell(self, delivery: Delivery) -> None:
        """Count the attempt, and log what did not arrive, without the other side's words: they can be personal."""
        claim, answer = delivery.claim, delivery.answer
        result = type(answer).__name__.lower() if delivery.is_kept else "lost"
        if self._metrics is not None:
            self._metrics.outbound_attempts.labels(result=result).inc()
        if result != "accepted":
            log = _log.info if result in ("deferred", "halted") else _log.warning
            log(
                f"outbound_attempt_{result}",
                item_id=str(claim.item.id),
                action=claim.item.action.value,
                attempt=claim.attempts,
                status=answer.http_status,
                resting_s=round(self._rest.left_s, 1),
            )


def _storable(text: str) -> str:
    """Take away what PostgreSQL cannot hold: an end that cannot be written would be sent again."""
    return text[:_LONGEST_ERROR].replace("\0", "").encode(errors="replace").decode()
