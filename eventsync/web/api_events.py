"""Events in the management API: searched, shown one by one, applied again. They are the owner's and the admins'."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Rejected
from eventsync.domain.events import EventId, Outcome, QueueStatus
from eventsync.domain.payloads import inflate, parse_json
from eventsync.domain.records import RecordKind
from eventsync.postgres.access import Access, AccessLog
from eventsync.postgres.search import (
    EventCursor,
    EventDetail,
    EventFilter,
    EventSearch,
    EventSummary,
    Payload,
    QueuePlace,
)
from eventsync.stages.replay import Action, Replayer
from eventsync.web.api_calls import CHANGING_ROLES, Call, Endpoint
from eventsync.web.api_errors import ApiError
from eventsync.web.api_paging import Cursors
from eventsync.web.api_parameters import (
    PAGING,
    choice_parameter,
    flag_parameter,
    text_parameter,
    time_parameter,
    uuid_parameter,
)

_log = structlog.get_logger(__name__)

_EVENT_ID = uuid_parameter("id", "The event's id.", in_path=True)
_UNKNOWN = {404: "The organization has no such event."}
_FILTERS = (
    uuid_parameter("connection_id", "Only this connection's."),
    text_parameter("vendor", "Only this vendor's.", "intakeq"),
    choice_parameter("state", "Only events that stand so, or ended so.", [*QueueStatus, *Outcome]),
    text_parameter("event_type", "Only this name of the vendor's.", "AppointmentCreated"),
    choice_parameter("entity_kind", "Only about records of this kind.", RecordKind),
    text_parameter("entity_id", "Only about records with this id of the vendor's.", "65f0c0ffee65f0c0ffee0001"),
    time_parameter("since", "Received at or after."),
    time_parameter("until", "Received before."),
)


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of events, the latest first. `next_cursor` is null on the last page."""

    items: tuple[EventSummary, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """What was received, credentials masked: `body` where it is JSON, else `body_base64` and in `problem` why not."""

    headers: dict[str, str] = field(repr=False)
    body: Any = field(default=None, repr=False)
    body_base64: str | None = field(default=None, repr=False)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """An event, its place in the queue while unfinished, and its request where that was asked for and is still kept."""

    event: EventSummary
    queue: QueuePlace | None
    request: ReceivedRequest | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay does (`dry_run`) or did: `unpark` the event, or `repeat` it as `new_event_id`, or `none`."""

    event_id: UUID
    dry_run: bool
    action: Action
    done: bool
    new_event_id: UUID | None
    reason: str


class EventsApi:
    """The endpoints."""

    def __init__(
        self, search: EventSearch, replayer: Replayer, access_log: AccessLog, keyring: Keyring, clock: Clock
    ) -> None:
        self._search = search
        self._replayer = replayer
        self._access_log = access_log
        self._cursors = Cursors(keyring, "events", _position)
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoints."""
        with_body = flag_parameter("body", "The request as well (admin or operator): it is personal data, so logged.")
        dry_run = flag_parameter("dry_run", "Only say what would be done.")
        return (
            Endpoint("GET", "/api/v1/events", self.list, EventPage, "Search events", (*_FILTERS, *PAGING)),
            Endpoint(
                "GET",
                "/api/v1/events/{id}",
                self.show,
                ShownEvent,
                "Show an event",
                (_EVENT_ID, with_body),
                errors=_UNKNOWN,
            ),
            Endpoint(
                "POST",
                "/api/v1/events/{id}/replay",
                self.replay,
                Replay,
                "Apply an event again",
                (_EVENT_ID, dry_run),
                CHANGING_ROLES,
                _UNKNOWN | {409: "The event cannot be replayed now; the message says why."},
            ),
        )

    async def list(self, call: Call) -> EventPage:
        """List a page of the organization's events."""
        wanted = EventFilter(call.caller.organization_id, **{each.name: call[each.name] for each in _FILTERS})
        found = await self._search.events(wanted, after=self._cursors.after(call), limit=call["limit"] + 1)
        return EventPage(*self._cursors.page(call, found))

    async def show(self, call: Call) -> ShownEvent:
        """Show one event; who reads its request is noted before it is opened."""
        if call["body"]:
            call.caller.require(CHANGING_ROLES)
            await self._find(call)
            access = Access(self._clock(), call.caller.actor, "read_event_body", f"event:{call['id']}")
            await self._access_log.write(access)
        found = await self._find(call, with_payload=call["body"])
        return ShownEvent(found.summary, found.place, None if found.payload is None else _request(found.payload))

    async def replay(self, call: Call) -> Replay:
        """Apply one event again, or say what that would do."""
        await self._find(call)
        (step,) = steps = await self._replayer.preview([call["id"]])
        if call["dry_run"]:
            return Replay(
                event_id=step.event_id,
                dry_run=True,
                action=step.action,
                done=False,
                new_event_id=None,
                reason=step.reason,
            )
        (replayed,) = await self._replayer.replay(steps)
        if not replayed.done:
            raise ApiError(409, "not_replayable", f"the event is not replayed: {replayed.reason}")
        _log.info("event_replayed", actor=call.caller.actor, event_id=str(step.event_id), action=step.action.value)
        return Replay(
            event_id=step.event_id,
            dry_run=False,
            action=step.action,
            done=True,
            new_event_id=replayed.new_event_id,
            reason="",
        )

    async def _find(self, call: Call, *, with_payload: bool = False) -> EventDetail:
        found = await self._search.event(call["id"], call.caller.organization_id, with_payload=with_payload)
        if found is None:
            raise ApiError(404, "unknown_event", "the organization has no such event")
        return found


def _position(texts: Sequence[str]) -> EventCursor:
    received_at, event_id = texts
    return EventCursor(datetime.fromisoformat(received_at), EventId(UUID(event_id)))


def _request(payload: Payload) -> ReceivedRequest:
    headers = dict(payload.headers)
    try:
        return ReceivedRequest(headers, parse_json(inflate(payload.body, headers)))
    except Rejected as error:
        return ReceivedRequest(headers, None, base64.b64encode(payload.body).decode(), error.reason)
