"""One trial: webhooks over one bus, from the first POST to the last row, with what it cost and whether all is true."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

from eventsync.bench.ends import row_figures, wait_for_ends
from eventsync.bench.latencies import Latencies
from eventsync.bench.load import LoadResult, closed_loop, open_loop
from eventsync.bench.options import BenchOptions, BusKind
from eventsync.bench.place import Place, open_database
from eventsync.bench.product import running_product
from eventsync.bench.specimens import appointment_webhooks, mixed_webhooks
from eventsync.bench.usage import Spent, UsageWatch, listener_pid
from eventsync.bench.verdict import Verdict, verify
from eventsync.crypto import Keyring, new_key
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import AddedConnection, Connections, NewConnection, Organizations
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

LOAD_GENERATOR = "load generator"
PRACTICE_ID = "65f0c0ffee65f0c0ffee0003"
_STALLED_AFTER_S = 30.0
_AMQP_PORTS = {"amqp": 5672, "amqps": 5671}


class Watcher(Protocol):
    """Who wants to know how far the benchmark is."""

    def begin(self, doing: str, total: int) -> None:
        """Begin with something that has `total` steps."""

    def progress(self, done: int) -> None:
        """Tell how many steps are done."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured over one bus.

    `post_events_per_s`: webhooks answered 200 a second. `row_events_per_s`: webhooks a second from the first POST to
    the last committed row. `post_latencies` are the sender's own, `row_latencies` from receipt to the committed row;
    None where no webhook became one. `unsent` are those left when the door was gone for good.
    """

    bus: BusKind
    sent: int
    accepted: int
    refused: int
    unanswered: int
    unsent: int
    post_events_per_s: float
    post_latencies: Latencies
    row_events_per_s: float
    row_latencies: Latencies | None
    verdict: Verdict
    processes: tuple[Spent, ...]

    @property
    def cpu_us_per_event(self) -> float:
        """Processor time that an accepted webhook cost in microseconds, servers included, the load generator not."""
        spent = sum(each.cpu_seconds for each in self.processes if each.name != LOAD_GENERATOR)
        return spent * 1e6 / self.accepted if self.accepted else 0.0

    @property
    def is_good(self) -> bool:
        """Whether every webhook was accepted and took effect exactly once."""
        return self.accepted > 0 == self.refused + self.unanswered + self.unsent and self.verdict.is_good


async def run_trial(place: Place, options: BenchOptions, bus: BusKind, watcher: Watcher) -> Trial:
    """Start eventsync on an empty database, load it, and hold the database against what was accepted.

    Raises Transient where a process does not start, or a server goes away meanwhile.
    """
    now_ms = int(utc_now().timestamp() * 1000)
    bodies = mixed_webhooks(options.events, version_ms=now_ms, practice_id=PRACTICE_ID)
    warm_up = appointment_webhooks(
        options.warm_up, first_number=options.events, version_ms=now_ms, practice_id=PRACTICE_ID
    )
    keys = new_key()
    async with place.database() as database_url, open_database(database_url) as database:
        connection = await _connect_practice(database, Keyring.parse(keys))
        settings = {"EVENTSYNC_DATABASE_URL": database_url, "EVENTSYNC_ENCRYPTION_KEYS": keys}
        if bus is BusKind.RABBITMQ and options.amqp_url is not None:
            settings["EVENTSYNC_AMQP_URL"] = options.amqp_url
        watcher.begin(f"{bus.value}: starting", 1)
        async with running_product(bus, settings, place.new_folder(bus.value)) as product:
            url = f"{product.base_url}/api/webhooks/intakeq/{connection.webhook_token}"
            warmed = await closed_loop(url, warm_up, connections=options.connections)
            await wait_for_ends(database, warmed.accepted, stalled_after_s=_STALLED_AFTER_S, on_progress=_ignore)
            usage = UsageWatch({**product.pids, LOAD_GENERATOR: os.getpid()}, _servers(place, options, bus))
            watcher.begin(f"{bus.value}: sending", len(bodies))
            load = await _send(url, bodies, options, watcher)
            watcher.begin(f"{bus.value}: becoming rows", len(bodies))
            expected = warmed.accepted + load.accepted
            await wait_for_ends(database, expected, stalled_after_s=_STALLED_AFTER_S, on_progress=watcher.progress)
            spent = usage.spent()
        watcher.begin(f"{bus.value}: verifying", 1)
        accepted = accepted_bodies(load, bodies) | accepted_bodies(warmed, warm_up)
        return await _judge(database, connection.id, bus, load, accepted, spent)


def accepted_bodies(load: LoadResult, bodies: Sequence[bytes]) -> dict[UUID, bytes]:
    """Pair the accepted events' ids with what was sent."""
    return {event_id: body for event_id, body in zip(load.event_ids, bodies, strict=True) if event_id is not None}


async def _send(url: str, bodies: Sequence[bytes], options: BenchOptions, watcher: Watcher) -> LoadResult:
    if options.rate_per_s is None:
        return await closed_loop(url, bodies, connections=options.connections, on_progress=watcher.progress)
    return await open_loop(
        url, bodies, rate_per_s=options.rate_per_s, connections=options.connections, on_progress=watcher.progress
    )


async def _judge(
    database: Database,
    connection_id: ConnectionId,
    bus: BusKind,
    load: LoadResult,
    accepted: dict[UUID, bytes],
    spent: Sequence[Spent],
) -> Trial:
    measured = [event_id for event_id in load.event_ids if event_id is not None]
    rows = await row_figures(database, measured)
    return Trial(
        bus=bus,
        sent=load.sent,
        accepted=load.accepted,
        refused=load.refused,
        unanswered=load.unanswered,
        unsent=len(load.event_ids) - load.sent,
        post_events_per_s=load.events_per_s,
        post_latencies=load.latencies,
        row_events_per_s=0.0 if rows is None else load.accepted / (rows.last_commit_at_s - load.began_at_s),
        row_latencies=None if rows is None else rows.latencies,
        verdict=await verify(database, connection_id, accepted),
        processes=tuple(spent),
    )


async def _connect_practice(database: Database, keyring: Keyring) -> AddedConnection:
    """Make the connection whose webhooks are sent; its API is never called, since appointments come whole."""
    now = utc_now()
    organization = await Organizations(database).add("Benchmark", None, now)
    new = NewConnection(
        organization_id=organization.id,
        vendor="intakeq",
        api_key="never-used",
        base_url="http://127.0.0.1:9/api/v1",
        practice_id=PRACTICE_ID,
    )
    return await Connections(database, keyring, load_vendors()).add(new, now)


def _servers(place: Place, options: BenchOptions, bus: BusKind) -> dict[str, int]:
    """Find the servers' processes: PostgreSQL's, and RabbitMQ's where it runs on this machine."""
    servers = {"PostgreSQL": place.server_pid}
    if bus is BusKind.RABBITMQ and options.amqp_url is not None:
        parts = urlsplit(options.amqp_url)
        if parts.hostname in {"127.0.0.1", "::1", "localhost"}:
            pid = listener_pid(parts.port or _AMQP_PORTS[parts.scheme])
            servers |= {} if pid is None else {"RabbitMQ": pid}
    return servers


def _ignore(_: int) -> None:
    """Take no note: warming up is not shown."""
