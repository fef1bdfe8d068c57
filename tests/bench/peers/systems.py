"""The systems that take webhooks and end in rows: which processes each of them is, and what it is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.child import python
from bench.peers import stripe_events
from bench.peers.installation import NODE_FOLDER, PEERS_PYTHON
from bench.practice import Practice, bench_keyring
from e2e.eventsync_process import environment
from eventsync.bench.load import HeaderLines
from eventsync.bench.specimens import appointment_id, appointment_webhook
from eventsync.domain.connections import HmacCheck
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.vendorkit.signing import sign
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now
from servers.ports import free_ports

_SIGNATURE = HmacCheck("X-Webhook-Signature", ("secret-of-the-benchmark",), prefix="sha256=")
_CELERY_PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a system runs: the servers' URLs, and the connected practice whose webhooks must be signed."""

    database_url: str
    amqp_url: str
    practice: Practice


@dataclass(frozen=True, slots=True)
class Program:
    """One process of a system; it is up once `ready_url` answers, or at once where there is none."""

    command: Sequence[str]
    settings: Mapping[str, str] = field(default_factory=dict)
    ready_url: str = ""


class Mail(Protocol):
    """What is sent: a body by number, its signature, and the row in which it must end."""

    table: str

    def body(self, number: int) -> bytes:
        """Make webhook `number`."""

    def row_id(self, number: int) -> str:
        """Name the row of webhook `number`."""

    def header_lines(self) -> HeaderLines:
        """Make what signs."""


@dataclass(frozen=True, slots=True)
class System:
    """Its processes by name, started in this order, the URL that is posted to, and what is posted."""

    programs: Mapping[str, Program]
    url: str
    mail: Mail


class Appointments:
    """IntakeQ's webhooks, signed as by a gateway."""

    table = "appointments"

    def __init__(self) -> None:
        self._version_ms = int(time.time() * 1000)

    def body(self, number: int) -> bytes:
        """Make webhook `number`."""
        return appointment_webhook(number, version_ms=self._version_ms)

    def row_id(self, number: int) -> str:
        """Name the row of webhook `number`."""
        return appointment_id(number)

    def header_lines(self) -> HeaderLines:
        """Sign with the practice's secret."""
        return lambda body: f"{_SIGNATURE.header}: {sign(_SIGNATURE, body)}\r\n".encode()


class Customers:
    """Stripe's webhooks, signed as Stripe does."""

    table = "customers"

    def __init__(self) -> None:
        self._now_s = int(time.time())

    def body(self, number: int) -> bytes:
        """Make webhook `number`."""
        return stripe_events.customer_updated(number, self._now_s)

    def row_id(self, number: int) -> str:
        """Name the row of webhook `number`."""
        return stripe_events.customer_id(number)

    def header_lines(self) -> HeaderLines:
        """Sign with the endpoint's secret."""
        return stripe_events.signing(self._now_s)


async def add_signing_practice(database: Database) -> Practice:
    """Connect a practice whose webhooks must carry a signature."""
    now = utc_now()
    organization = await Organizations(database).add("Test Practice", None, now)
    base_url = "http://127.0.0.1:9/api/v1"
    new = NewConnection(organization.id, "intakeq", "key-of-the-account", base_url, hmac=_SIGNATURE)
    added = await Connections(database, bench_keyring(), load_vendors()).add(new, now)
    return Practice(added.id, f"/api/webhooks/intakeq/{added.webhook_token}")


def in_process(ground: Ground) -> System:
    """Make ours in one process with the in-process bus: `eventsync run`."""
    (port,) = free_ports(1)
    settings = environment(Path.cwd() / "eventsync", ground.database_url)
    command = python("eventsync", "eventsync", "run", "--port", str(port))
    return _taking_appointments(ground, port, {"eventsync": Program(command, settings, _ready(port))})


def over_rabbitmq(ground: Ground) -> System:
    """Make ours in three processes over RabbitMQ."""
    roles = {"ingress": ("ingress",), "relay": ("relay",), "consumer": ("consumer", "worker")}
    ports = dict(zip(roles, free_ports(len(roles)), strict=True))
    programs = {}
    for name, chosen in roles.items():
        option = "--port" if name == "ingress" else "--health-port"
        command = python(name, "eventsync", "run", *chosen, option, str(ports[name]))
        settings = environment(Path.cwd() / name, ground.database_url, ground.amqp_url)
        programs[name] = Program(command, settings, _ready(ports[name]))
    return _taking_appointments(ground, ports["ingress"], programs)


def upsert_plain(ground: Ground) -> System:
    """Make an aiohttp handler that executes one upsert a request."""
    return _upserting(ground, "plain")


def upsert_whole(ground: Ground) -> System:
    """Make an aiohttp handler that calls our write function in each request."""
    return _upserting(ground, "whole")


def celery(ground: Ground) -> System:
    """Make FastAPI under uvicorn, and a Celery worker of two processes behind RabbitMQ."""
    (port,) = free_ports(1)
    settings = environment(Path.cwd(), ground.database_url, ground.amqp_url)
    door = [PEERS_PYTHON, "-m", "uvicorn", "bench.peers.celery_door:app", "--port", str(port), "--no-access-log"]
    worker = [PEERS_PYTHON, "-m", "celery", "--app", "bench.peers.celery_tasks", "worker", "--loglevel", "WARNING"]
    programs = {
        "worker": Program([*worker, "--concurrency", str(_CELERY_PROCESSES)], settings),
        "door": Program([*door, "--log-level", "warning"], settings, _ready(port)),
    }
    return _taking_appointments(ground, port, programs)


def stripe(ground: Ground) -> System:
    """Make @supabase/stripe-sync-engine behind Node's HTTP server."""
    (port,) = free_ports(1)
    server = str(NODE_FOLDER / "stripe_server.cjs")
    command = ["node", server, str(port), ground.database_url, stripe_events.SECRET]
    url = f"http://127.0.0.1:{port}/"
    return System({"node": Program(command, {"NODE_ENV": "production"}, url)}, url, Customers())


SYSTEMS: Mapping[str, Callable[[Ground], System]] = {
    made.__name__: made for made in (in_process, over_rabbitmq, upsert_plain, upsert_whole, celery, stripe)
}


def _upserting(ground: Ground, variant: str) -> System:
    (port,) = free_ports(1)
    settings = environment(Path.cwd(), ground.database_url)
    command = python("handler", "bench.peers.upserting", variant, "--port", str(port))
    return _taking_appointments(ground, port, {"handler": Program(command, settings, _ready(port))})


def _taking_appointments(ground: Ground, port: int, programs: Mapping[str, Program]) -> System:
    return System(programs, f"http://127.0.0.1:{port}{ground.practice.webhook_path}", Appointments())


def _ready(port: int) -> str:
    return f"http://127.0.0.1:{port}/readyz"
