"""Sends webhooks as the vendor does: one POST each, no second try, with the faults that were asked for.

Even without faults, several POSTs run at once, so arrivals may swap places; `concurrency` 1 keeps the order.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import aiohttp

from eventsync.sandbox.fate import CONNECTION, TIMEOUT, UNTARGETED, Delivery
from eventsync.sandbox.faults import Copy, Faults, plan_copies
from eventsync.sandbox.signing import SignatureForm, Signing
from eventsync.sandbox.stats import Stats
from eventsync.sandbox.vendor import Webhook

_Sending: TypeAlias = tuple[Webhook, Delivery]


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderLimits:
    """How many POSTs at once, how many may wait before `room` blocks, how long an answer may take."""

    concurrency: int = 32
    backlog: int = 2_000
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 20.0


class WebhookSender:
    """Takes webhooks in the order of the changes and POSTs them to the URL of their kind."""

    def __init__(
        self,
        *,
        targets: Mapping[str, str],
        faults: Faults,
        rng: random.Random,
        stats: Stats,
        signing: Signing | None = None,
        signature_form: SignatureForm | None = None,
        limits: SenderLimits | None = None,
    ) -> None:
        self.targets = dict(targets)
        self.faults = faults
        self._rng = rng
        self._stats = stats
        self._signing = signing
        self._signature_form = signature_form or SignatureForm()
        self._limits = limits or SenderLimits()
        self._ready: asyncio.Queue[_Sending] = asyncio.Queue()
        self._held: list[tuple[int, int, _Sending]] = []  # heap: goes out after this many webhooks
        self._delayed: list[tuple[float, int, _Sending]] = []  # heap: goes out at this loop time
        self._taken = 0
        self._tie_break = itertools.count()
        self._hold_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0  # kept here: uvloop's handle of a moment already past cannot say when()
        self._background: asyncio.Task[None] | None = None
        self._unanswered = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def unanswered(self) -> int:
        """Copies taken but not yet answered or given up, waiting ones included."""
        return self._unanswered

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the sending tasks alive; on leaving, what was not yet sent is abandoned and counted."""
        self._background = asyncio.create_task(self._work())
        self._background.add_done_callback(self._wake_waiters)
        try:
            yield
        finally:
            self._background.cancel()
            await asyncio.wait([self._background])
            if self._timer is not None:
                self._timer.cancel()
            self._stats.abandoned += self._unanswered
            self._fail_with_background()

    async def _work(self) -> None:
        limits = self._limits
        timeout = aiohttp.ClientTimeout(total=limits.answer_timeout_s, sock_connect=limits.connect_timeout_s)
        connector = aiohttp.TCPConnector(limit=limits.concurrency)
        cookies = aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=cookies) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(limits.concurrency):
                group.create_task(self._send_for_ever(session))

    def _wake_waiters(self, _background: asyncio.Task[None]) -> None:
        self._idle.set()
        self._has_room.set()

    def _fail_with_background(self) -> None:
        """Pass on the error that ended the sending, if one did."""
        if self._background is None:
            raise RuntimeError("the sender is not running; enter running() first")
        if self._background.done() and not self._background.cancelled():
            self._background.result()

    def take(self, webhook: Webhook, *, is_lost: bool = False) -> Delivery:
        """Plan one webhook's copies by the faults and queue them; a dropped (or `is_lost`) one is only counted.

        What is returned tells from then on what becomes of it.
        """
        self._stats.webhooks[webhook.event] += 1
        copies = plan_copies(self.faults, self._rng)
        self._taken += 1
        delivery = Delivery()
        if webhook.kind not in self.targets:
            self._stats.untargeted += 1
        elif is_lost or not copies:
            self._stats.dropped += 1
            delivery.is_dropped = True
        else:
            self._send_copies(webhook, copies, delivery)
        self._release_overtaken()
        self._arm()
        return delivery

    def _send_copies(self, webhook: Webhook, copies: Sequence[Copy], delivery: Delivery) -> None:
        delivery.copies = len(copies)
        delivery.is_delayed = copies[0].delay_s > 0
        delivery.is_overtaken = copies[0].overtaken_by > 0
        self._stats.duplicated += delivery.copies - 1
        self._stats.delayed += delivery.is_delayed
        self._stats.reordered += delivery.is_overtaken
        for copy in copies:
            self._queue((webhook, delivery), copy)

    async def room(self) -> None:
        """Wait until the backlog is short enough for more."""
        await self._has_room.wait()
        self._fail_with_background()

    async def idle(self, timeout_s: float) -> bool:
        """Wait until every copy, late ones included, is answered or given up; False when that took too long."""
        self.flush_held()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        self._fail_with_background()
        return True

    def flush_held(self) -> None:
        """Send now what was waiting to be overtaken."""
        while self._held:
            self._ready.put_nowait(heapq.heappop(self._held)[2])

    def _queue(self, sending: _Sending, copy: Copy) -> None:
        self._unanswered += 1
        self._idle.clear()
        loop = asyncio.get_running_loop()
        if copy.delay_s > 0:
            heapq.heappush(self._delayed, (loop.time() + copy.delay_s, next(self._tie_break), sending))
        elif copy.overtaken_by > 0:
            heapq.heappush(self._held, (self._taken + copy.overtaken_by, next(self._tie_break), sending))
            self._hold_until_s = loop.time() + self.faults.reorder_hold_s
        else:
            self._ready.put_nowait(sending)
        if self._ready.qsize() >= self._limits.backlog:
            self._has_room.clear()

    def _release_overtaken(self) -> None:
        while self._held and self._held[0][0] <= self._taken:
            self._ready.put_nowait(heapq.heappop(self._held)[2])

    def _arm(self) -> None:
        """Set the one timer to the next due moment, if anything waits."""
        due_s = [self._delayed[0][0]] if self._delayed else []
        if self._held:
            due_s.append(self._hold_until_s)
        if not due_s or (self._timer is not None and self._timer_due_s <= min(due_s)):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = min(due_s)
        self._timer = asyncio.get_running_loop().call_at(self._timer_due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        while self._delayed and self._delayed[0][0] <= now_s:
            self._ready.put_nowait(heapq.heappop(self._delayed)[2])
        if now_s >= self._hold_until_s:
            self.flush_held()
        self._arm()

    async def _send_for_ever(self, session: aiohttp.ClientSession) -> None:
        while True:
            webhook, delivery = await self._ready.get()
            if self._ready.qsize() <= self._limits.backlog // 2:
                self._has_room.set()
            answer = await self._post(session, webhook)
            self._stats.answers[answer] += 1
            delivery.answers.append(answer)
            self._unanswered -= 1
            if not self._unanswered:
                self._idle.set()

    async def _post(self, session: aiohttp.ClientSession, webhook: Webhook) -> str:
        """POST once; the answer's status, or what kept it from coming."""
        headers = {"Content-Type": "application/json"}
        if self._signing is not None:
            headers.update(self._signing.headers(webhook.body, self._signature_form))
        url = self.targets.get(webhook.kind)
        if url is None:  # the target was taken away meanwhile
            return UNTARGETED
        self._stats.sent[webhook.kind] += 1
        try:
            async with session.post(url, data=webhook.body, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                return str(answer.status)
        except TimeoutError:
            return TIMEOUT
        except aiohttp.ClientError:
            return CONNECTION
