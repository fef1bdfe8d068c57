"""Our whole path beside the peers': one relay process and one consumer process, as users start them.

`--storing beforehand`: all events become visible to the relay at once, by the commit that starts the clock. `--storing
within`: this process stores them as the door does, in groups of 500, while the two others are at work, so that the
clock has our publisher in it as it has the peers'.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.child import python, running
from bench.contender import WARM_UP_EVENTS, Assignment, contend
from bench.contest import LOST, Figures
from bench.peers.rows import count_rows, missing_rows, until_rows
from bench.peers.trial import usage_figures, watch
from bench.practice import Practice, add_practice, bench_keyring, store_appointments
from e2e.eventsync_process import environment
from eventsync.bench.specimens import appointment_id, appointment_webhooks
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.events import IncomingEvent, new_event_id
from eventsync.postgres.database import Database, Session
from eventsync.postgres.queue import EventQueue
from eventsync.stages.incoming import incoming
from eventsync.wiring import utc_now
from servers.eventually import eventually
from servers.ports import free_ports

_GROUP_EVENTS = 500
_HEADERS = (("Host", "sync.example.test"), ("Content-Type", "application/json"), ("Content-Length", "1500"))


class _InOneTransaction(Database):
    """A database whose every session is the one that holds a transaction open."""

    def __init__(self, session: Session) -> None:
        super().__init__("")
        self._session = session

    @asynccontextmanager
    async def session(self, *, acquire_timeout_s: float = 5.0) -> AsyncIterator[Session]:  # noqa: ARG002  # nothing to acquire
        yield self._session


async def work(assignment: Assignment) -> Figures:
    """Store, and wait for the rows."""
    database = Database(assignment.database_url, max_connections=2)
    await database.open()
    practice = await add_practice(database)
    settings = environment(Path.cwd() / "eventsync", assignment.database_url, assignment.amqp_url)
    ports = free_ports(2)
    relay = python("relay", "eventsync", "run", "relay", "--health-port", str(ports[0]))
    consumer = python("consumer", "eventsync", "run", "consumer", "worker", "--health-port", str(ports[1]))
    ready = [f"http://127.0.0.1:{port}/readyz" for port in ports]
    async with (
        running(relay, settings, ready_url=ready[0]) as relaying,
        running(consumer, settings, ready_url=ready[1]) as consuming,
    ):
        await _warm_up(database, practice, first_number=assignment.events)
        events = _events(practice, assignment.events)
        is_beforehand = assignment.options.storing == "beforehand"
        usage = watch({"relay": relaying, "consumer": consuming}, None if is_beforehand else os.getpid())
        began = await (_store_beforehand if is_beforehand else _store_within)(database, events)
        await until_rows(database, WARM_UP_EVENTS + assignment.events)
        figures = {"events": assignment.events, "seconds": time.perf_counter() - began}
        figures |= usage_figures(usage)
    figures[LOST.name] = await missing_rows(database, [appointment_id(number) for number in range(assignment.events)])
    await database.close()
    return figures


async def _warm_up(database: Database, practice: Practice, *, first_number: int) -> None:
    await store_appointments(EventQueue(database, bench_keyring()), practice, WARM_UP_EVENTS, first_number=first_number)

    async def is_quiet() -> bool:
        return await count_rows(database, "event_queue") == 0

    await eventually(is_quiet, 30)


async def _store_beforehand(database: Database, events: Sequence[IncomingEvent]) -> float:
    async with database.transaction() as session:
        await _store(EventQueue(_InOneTransaction(session), bench_keyring()), events)
        return time.perf_counter()  # the commit, on leaving, makes them visible and wakes the relay


async def _store_within(database: Database, events: Sequence[IncomingEvent]) -> float:
    began = time.perf_counter()
    await _store(EventQueue(database, bench_keyring()), events)
    return began


async def _store(queue: EventQueue, events: Sequence[IncomingEvent]) -> None:
    for start in range(0, len(events), _GROUP_EVENTS):
        await queue.store(events[start : start + _GROUP_EVENTS])


def _events(practice: Practice, count: int) -> list[IncomingEvent]:
    verifier = WebhookVerifier(b"", practice.connection_id, "intakeq")
    return [
        incoming(new_event_id(utc_now(), secrets.token_bytes(10)), verifier, _HEADERS, body)
        for body in appointment_webhooks(count, version_ms=int(time.time() * 1000))
    ]


if __name__ == "__main__":
    contend(work, ["storing"])
