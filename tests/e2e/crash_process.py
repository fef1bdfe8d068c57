"""The product's own process, all roles in one, that kills itself at a named point; the settings come as usual.

Arguments: the port, and the name of a crash point or nothing. The product knows nothing of it: the parts that
`open_process` has composed are wrapped from outside before they run.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from asyncpg.pool import PoolConnectionProxy

from e2e.crash_points import CRASH_POINTS, CrashPoint
from eventsync.bus.wire import Message, QueueName
from eventsync.domain.deliveries import Accepted
from eventsync.domain.records import RecordKind
from eventsync.postgres import outbound
from eventsync.postgres.records import EventChange
from eventsync.settings import load_settings
from eventsync.stages import refetch, relay
from eventsync.stages.deliver import Deliverer
from eventsync.vendors.colectiva.client import ColectivaClient
from eventsync.wiring import Role, database_in_use, delivering, keyring_of
from eventsync.wiring.process import Process, ProcessOptions, open_process

Step = Callable[..., Awaitable[Any]]
Condition = Callable[..., bool]

_TURNS_OF_A_WRITE = 20  # of the event loop, until the driver has handed its frames to the socket


class Crash:
    """Ends this process on the spot, the `visit`-th time it is called."""

    def __init__(self, visit: int) -> None:
        self._visits_left = visit

    def __call__(self) -> None:
        self._visits_left -= 1
        if self._visits_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # the kernel may take a moment; nothing more must happen here


def _before(owner: object, name: str, crash: Callable[[], None], when: Condition = lambda *_: True) -> None:
    """Crash instead of calling `owner.name`, where `when` holds of its arguments."""
    step: Step = getattr(owner, name)

    @functools.wraps(step)
    async def crashing(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            crash()
        return await step(*arguments, **options)

    setattr(owner, name, crashing)


def _after(owner: object, name: str, crash: Callable[[], None], when: Condition = lambda *_: True) -> None:
    """Crash once `owner.name` has returned, where `when` holds of its result and its arguments."""
    step: Step = getattr(owner, name)

    @functools.wraps(step)
    async def crashing(*arguments: Any, **options: Any) -> Any:
        result = await step(*arguments, **options)
        if when(result, *arguments):
            crash()
        return result

    setattr(owner, name, crashing)


def _while_publishing(process: Process, crash: Callable[[], None]) -> None:
    publish = process.bus.publish

    async def crashing(messages: Sequence[Message]) -> None:
        publishing = asyncio.create_task(publish(messages))
        if _is_work(messages):
            for _ in range(_TURNS_OF_A_WRITE):
                await asyncio.sleep(0)
            crash()
        await publishing

    setattr(process.bus, "publish", crashing)  # noqa: B010  (mypy refuses to assign to a method)


def _before_the_ack(process: Process, crash: Callable[[], None]) -> None:
    subscribe = process.bus.subscribe

    async def subscribing(queue: QueueName, prefetch: int) -> object:
        subscription = await subscribe(queue, prefetch)
        if queue is QueueName.APPLY_FRESH:
            _before(subscription, "acknowledge", crash)
        return subscription

    setattr(process.bus, "subscribe", subscribing)  # noqa: B010  (mypy refuses to assign to a method)


def _before_the_drain(process: Process, crash: Callable[[], None]) -> None:
    """Crash between what the drain has read from the spool and its statement, so that nothing may be forgotten yet."""
    has_read = asyncio.Event()
    _after(process.spool, "oldest", has_read.set, lambda found, _: bool(found))
    _before(process.queue, "store", crash, lambda _: has_read.is_set())


def _after_the_mark(process: Process, crash: Callable[[], None]) -> None:
    """Crash when a consumer asks for what a relay has marked: the mark is committed, the message was in memory only."""
    _before(process.queue, "begin_attempts", crash)


def _is_work(messages: Sequence[Message]) -> bool:
    return messages[0].must_route


def _was_read(_session: object, changes: Sequence[EventChange], _now: object) -> bool:
    return any(entry.change.entity.kind in (RecordKind.NOTE, RecordKind.INTAKE) for entry in changes)


def _wrote_webhooks(_result: object, _session: object, changes: Sequence[EventChange], _now: object) -> bool:
    return bool(changes) and not _was_read(_session, changes, _now)


_INSTALL: dict[str, Callable[[Process, Crash], None]] = {
    "ingress_before_the_commit": lambda p, crash: _before(p.queue, "store", crash),
    "ingress_before_the_200": lambda p, crash: _after(p.queue, "store", crash),
    "ingress_commit_of_unknown_outcome": lambda p, crash: _after(p.spool, "put", crash),
    "spooled_before_the_200": lambda p, crash: _after(p.spool, "put", crash),
    "spooled_before_the_drain": _before_the_drain,
    "drained_before_forgotten": lambda p, crash: _before(p.spool, "forget", crash),
    "claimed_before_the_publish": lambda p, crash: _before(p.bus, "publish", crash, _is_work),
    "published_before_the_confirm": _while_publishing,
    "confirmed_before_the_mark": lambda p, crash: _after(p.bus, "publish", crash, lambda _, m: _is_work(m)),
    "news_confirmed_before_the_commit": lambda p, crash: _after(
        p.bus, "publish", crash, lambda _, messages: not _is_work(messages)
    ),
    "marked_on_the_in_process_bus": _after_the_mark,
    "attempts_counted": lambda p, crash: _after(p.queue, "begin_attempts", crash, lambda found, *_: bool(found)),
    "in_the_middle_of_a_batch": lambda p, crash: _after(p.writer, "write", crash, _wrote_webhooks),
    "committed_before_the_ack": _before_the_ack,
    "leased_before_the_read": lambda p, crash: _after(
        p.queue, "lease_refetch", crash, lambda lease, *_: lease is not None
    ),
    "read_before_the_write": lambda p, crash: _before(p.writer, "write", crash, _was_read),
    "item_claimed_before_the_commit": lambda _, crash: _after(
        PoolConnectionProxy, "fetchrow", crash, lambda _row, _session, statement, *_: statement == outbound.SQL.claim
    ),
    "item_claimed_before_the_post": lambda _, crash: _before(ColectivaClient, "deliver", crash),
    "item_answered_before_its_end": lambda _, crash: _after(
        ColectivaClient, "deliver", crash, lambda answer, *_: isinstance(answer, Accepted)
    ),
    "item_ended": lambda _, crash: _after(outbound.OutboundQueue, "succeed", crash),
}


def _shorten_waits() -> None:
    """Let leases run out within seconds, where the product gives a slow vendor minutes."""
    refetch._LEASE = timedelta(seconds=3)
    relay._RESCUE_INTERVAL = timedelta(seconds=0.5)
    setattr(delivering, "Deliverer", functools.partial(Deliverer, lease_s=3.0))  # noqa: B010  (as above)


async def main(port: int, point: CrashPoint | None) -> None:
    """Run all roles until SIGTERM, or until the point is reached."""
    settings = load_settings()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with database_in_use(settings) as database_url:
        options = ProcessOptions(
            settings=settings,
            roles=frozenset(Role),
            database_url=database_url,
            keyring=keyring_of(settings),
            port=port,
        )
        async with open_process(options) as process:
            if point is not None:
                _INSTALL[point.name](process, Crash(point.visit))
            async with process.running(stop):
                await stop.wait()


if __name__ == "__main__":
    _shorten_waits()
    named = {point.name: point for point in CRASH_POINTS}
    asyncio.run(main(int(sys.argv[1]), named[sys.argv[2]] if sys.argv[2:] else None))
