"""The outbound queue in a real database, with a registry that answers as a test wrote it down."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson

from eventsync.domain.connections import ConnectionId
from eventsync.domain.deliveries import Accepted, Action, Answer, Failed, Halted, OutboundItem
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import OutboundQueue
from eventsync.stages.deliver import Deliverer, OpenRegistry, RegistryAccount
from eventsync.stages.delivery_worker import DeliveryWorker
from eventsync.stages.wake import WakeRelay
from eventsync.telemetry import Metrics
from servers.eventually import eventually
from stages.spine import ManualClock, Spine

ACCEPTED = Accepted("remote-1", 200)
FAILED = Failed("it broke", 500)
HALTED = Halted("the key is refused", 401)
NEVER_S = 3600.0


class ManualSeconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class ScriptedRegistry:
    """Takes what it is sent, and gives the answers in turn (an exception is raised); the last one again and again.

    `begun` is set at each delivery, which is answered once `gate` is open.
    """

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = deque(answers or [ACCEPTED])
        self.sent: list[OutboundItem] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def check_credentials(self) -> None:
        """Find nothing wrong."""

    def body_of(self, item: OutboundItem) -> Mapping[str, Any]:
        """Write the payload."""
        return item.payload

    async def deliver(self, item: OutboundItem) -> Answer:
        """Note the item, wait for the gate, answer."""
        self.sent.append(item)
        self.begun.set()
        await self.gate.wait()
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass(slots=True)
class DeliverySite:
    """What a deliverer works with. `registry` of None: there is no connection. `open_account` stands in its place.

    The clock begins after the fixtures have made the connection, whose last change is told by PostgreSQL's.
    """

    pool: Database
    database: asyncpg.Connection
    connection_id: ConnectionId
    registry: ScriptedRegistry | None = field(default_factory=ScriptedRegistry)
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(UTC) + timedelta(seconds=1)))
    seconds: ManualSeconds = field(default_factory=ManualSeconds)
    metrics: Metrics = field(default_factory=Metrics)
    open_account: OpenRegistry | None = None

    @property
    def queue(self) -> OutboundQueue:
        """The queue."""
        return OutboundQueue(self.pool)

    @property
    def scripted(self) -> ScriptedRegistry:
        """The registry, which is there."""
        assert self.registry is not None
        return self.registry

    async def open_registry(self) -> RegistryAccount | None:
        """Open the account as the test has it now."""
        if self.open_account is not None:
            return await self.open_account()
        return None if self.registry is None else RegistryAccount(self.connection_id, self.registry)

    def deliverer(self, *, queue: OutboundQueue | None = None, **kwargs: Any) -> Deliverer:
        """Make a deliverer on the test's clocks."""
        options = {"metrics": self.metrics, "monotonic": self.seconds, **kwargs}
        return Deliverer(queue or self.queue, self.open_registry, self.clock, Random(5), **options)

    def advance(self, seconds: float) -> None:
        """Move both clocks."""
        self.clock.advance(seconds)
        self.seconds.now_s += seconds

    async def put(
        self, number: int = 1, action: Action = Action.REGISTER, payload: Mapping[str, Any] | None = None
    ) -> UUID:
        """Insert an item of organization `number`."""
        item_id: UUID = await self.database.fetchval(
            "INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload)"
            " VALUES ('practice', $1, $2, $3, $4) RETURNING id",
            uuid4(),
            f"plenura_{number:032x}",
            action.value,
            orjson.dumps(payload or {"organization_name": f"Test Practice {number}"}).decode(),
        )
        return item_id

    async def row(self, item_id: UUID) -> dict[str, Any]:
        """Read an item."""
        row = await self.database.fetchrow("SELECT * FROM ecosystem_sync_queue WHERE id = $1", item_id)
        assert row is not None
        return dict(row)

    async def state(self, item_id: UUID) -> tuple[str, int, str | None]:
        """Read an item's status, attempts and error message."""
        row = await self.row(item_id)
        return row["status"], row["attempts"], row["error_message"]

    async def statuses(self) -> list[str]:
        """Read all items' statuses, in their order."""
        rows = await self.database.fetch("SELECT status FROM ecosystem_sync_queue ORDER BY position")
        return [row["status"] for row in rows]

    async def put_back(self, item_id: UUID) -> None:
        """Do what seed 000 tells operators to do, to have an item tried again."""
        await self.database.execute("UPDATE ecosystem_sync_queue SET status = 'pending' WHERE id = $1", item_id)

    def count(self, result: str) -> float:
        """Read how many attempts ended so."""
        return self.metrics.registry.get_sample_value("eventsync_outbound_attempts_total", {"result": result}) or 0.0


def organizations(items: Sequence[OutboundItem]) -> list[int]:
    """Give the numbers of the organizations that items are of."""
    return [int(item.ecosystem_org_id.removeprefix("plenura_"), 16) for item in items]


def worker_of(site: DeliverySite, spine: Spine, queue: OutboundQueue | None = None, **kwargs: Any) -> DeliveryWorker:
    """Make a worker; `monotonic` goes to its deliverer as well."""
    queue = queue or site.queue
    seconds = asyncio.get_running_loop().time
    deliverer = site.deliverer(queue=queue, monotonic=kwargs.get("monotonic", seconds))
    return DeliveryWorker(deliverer, queue, spine.link, spine.listener, site.clock, **kwargs)


@asynccontextmanager
async def working(site: DeliverySite, spine: Spine, **kwargs: Any) -> AsyncIterator[DeliveryWorker]:
    """Run a worker that never polls, with the relay that wakes it."""
    worker = worker_of(site, spine, **{"poll_s": NEVER_S, **kwargs})
    async with spine.running(WakeRelay(spine.link, spine.listener), worker, spine.listener):
        await eventually(lambda: spine.listener.is_proven and not worker._is_deaf)
        yield worker


async def is_over(site: DeliverySite, item_id: UUID) -> bool:
    """Tell whether the item has been accepted."""
    return (await site.state(item_id))[0] == "success"
