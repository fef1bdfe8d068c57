"""Applies earlier events again at a person's wish: previewed first, then done; asked by the command line and the API.

A parked event goes back to waiting. A finished one stays as it is in the history; its stored request becomes a new
event that names it as its cause, with an identity of its own, so that no guard takes it for a duplicate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from eventsync.domain.clock import Clock
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Lane, QueueStatus, new_event_id
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.stored_events import EventState, StoredEvents

_GROUP = 100
_REST = 2
_ENTROPY_BYTES = 10
_UNFINISHED = frozenset({QueueStatus.PENDING.value, QueueStatus.PUBLISHED.value, QueueStatus.RUNNING.value})


class Action(StrEnum):
    """What a replay does with one event."""

    UNPARK = "unpark"  # the parked event itself gets a fresh start
    REPEAT = "repeat"  # a new event with the same request
    NONE = "none"  # nothing; `reason` says why


@dataclass(frozen=True, slots=True)
class Step:
    """What is to become of one event; `reason` says why nothing can be done, for people."""

    event_id: EventId
    action: Action
    state: str | None = None
    event_type: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one event: `new_event_id` is the event that repeats it. `done` is False where nothing happened."""

    event_id: EventId
    done: bool
    new_event_id: EventId | None = None
    reason: str = ""


class Replayer:
    """The stage. `entropy` gives as many random bytes as it is asked for (secrets.token_bytes).

    Between its groups it rests twice as long as each took (`sleep`, by `stopwatch_s`), which leaves PostgreSQL and the
    processors to fresh webhooks.
    """

    def __init__(
        self,
        queue: EventQueue,
        stored: StoredEvents,
        clock: Clock,
        entropy: Callable[[int], bytes],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        stopwatch_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._stored = stored
        self._clock = clock
        self._entropy = entropy
        self._sleep = sleep
        self._stopwatch_s = stopwatch_s

    async def preview(self, event_ids: Sequence[UUID]) -> list[Step]:
        """Say what `replay` would do with each event, and change nothing."""
        steps: list[Step] = []
        distinct = list(dict.fromkeys(event_ids))
        for start in range(0, len(distinct), _GROUP):
            group = distinct[start : start + _GROUP]
            states = await self._stored.states(group)
            steps += [_step(EventId(event_id), states.get(event_id)) for event_id in group]
        return steps

    async def replay(
        self, steps: Sequence[Step], *, on_progress: Callable[[int], object] = lambda _: None
    ) -> list[Replayed]:
        """Do what `preview` said. Many events travel in the lane that fresh webhooks do not wait for.

        `on_progress` is told how many steps are done, now and then.
        """
        lane = Lane.FRESH if len(steps) == 1 else Lane.BULK
        replayed: list[Replayed] = []
        for start in range(0, len(steps), _GROUP):
            began_s = self._stopwatch_s()
            replayed += await self._replay_group(steps[start : start + _GROUP], lane)
            on_progress(len(replayed))
            if len(replayed) < len(steps):
                await self._sleep(_REST * (self._stopwatch_s() - began_s))
        return replayed

    async def _replay_group(self, steps: Sequence[Step], lane: Lane) -> list[Replayed]:
        repeated = await self._repeat([step.event_id for step in steps if step.action is Action.REPEAT], lane)
        return [await self._end(step, repeated, lane) for step in steps]

    async def _repeat(self, event_ids: Sequence[EventId], lane: Lane) -> dict[EventId, EventId]:
        repeats = {
            original.event_id: IncomingEvent(
                id=new_event_id(self._clock(), self._entropy(_ENTROPY_BYTES)),
                connection_id=original.connection_id,
                vendor=original.vendor,
                source=EventSource.REPLAY,
                headers=original.headers,
                body=original.body,
                lane=lane,
                caused_by=original.event_id,
            )
            for original in (await self._stored.requests(event_ids) if event_ids else ())
        }
        if repeats:
            await self._queue.store(list(repeats.values()))
        return {event_id: repeat.id for event_id, repeat in repeats.items()}

    async def _end(self, step: Step, repeated: dict[EventId, EventId], lane: Lane) -> Replayed:
        match step.action:
            case Action.UNPARK:
                done = await self._queue.unpark(step.event_id, self._clock(), lane)
                return Replayed(step.event_id, done, reason="" if done else "it is not parked any more")
            case Action.REPEAT:
                repeat = repeated.get(step.event_id)
                reason = "" if repeat else "its request was removed meanwhile"
                return Replayed(step.event_id, repeat is not None, repeat, reason)
            case Action.NONE:
                return Replayed(step.event_id, done=False, reason=step.reason)


def _step(event_id: EventId, found: EventState | None) -> Step:
    if found is None:
        return Step(event_id, Action.NONE, reason="there is no such event")
    if found.state == QueueStatus.PARKED:
        return Step(event_id, Action.UNPARK, found.state, found.event_type)
    if found.state in _UNFINISHED:
        return Step(event_id, Action.NONE, found.state, found.event_type, "it is still on its way")
    if not found.has_request:
        return Step(event_id, Action.NONE, found.state, found.event_type, "its request was removed after the retention")
    return Step(event_id, Action.REPEAT, found.state, found.event_type)
