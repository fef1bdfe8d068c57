"""The product's own parts over real SQL, as processes that die: a door, a relay, two consumers, a worker, a bus."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from pathlib import Path
from uuid import UUID

from eventsync.bus.memory import MemoryBus
from eventsync.bus.wire import Delivery, QueueName, Subscription
from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId, WebhookVerifier
from eventsync.domain.errors import Transient
from eventsync.domain.events import new_event_id
from eventsync.postgres.listener import Listener
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.records import RecordWriter
from eventsync.stages.apply import Applier, event_ids_in
from eventsync.stages.bus_link import BusLink
from eventsync.stages.dead_letters import DeadLetterConsumer
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.incoming import incoming
from eventsync.stages.refetch import Refetcher
from eventsync.stages.relay import Relay
from eventsync.telemetry import Metrics
from eventsync.vendors.intakeq import VENDOR
from eventsync.vendors.intakeq.client import IntakeQClient
from simulation.clocks import Machines, SimulatedClock
from simulation.door import Door
from simulation.fate import FatedDatabase, Killed
from simulation.ledger import Ledger
from simulation.mail import Letter
from simulation.practice import BASE_URL, PretendHttp

CONNECTION_ID = ConnectionId(UUID(int=2))
ORGANIZATION_ID = OrganizationId(UUID(int=1))

_PREFETCH = 1_000
_TRIES = 6


class Reader:
    """One process's place at a queue: what it has taken and not acknowledged comes again when it dies."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.held: Sequence[Delivery] = ()


class World:
    """Everything that eventsync consists of in one run, on machines with clocks of their own.

    `died` counts what the simulation killed behind the doors.
    """

    def __init__(
        self, database: FatedDatabase, keyring: Keyring, rng: random.Random, clock: SimulatedClock, folder: Path
    ) -> None:
        self.database = database
        self.fate = database.fate
        self.clock = clock
        self.ledger = Ledger()
        self.metrics = Metrics()
        self.queue = EventQueue(database, keyring)
        self.writer = RecordWriter(keyring)
        self.bus = MemoryBus()
        self.died = 0
        self.machines = Machines(clock, rng)
        self.doors = [Door(database, keyring, folder / f"spool-{n}.sqlite3", self.machines.clock()) for n in (0, 1)]
        self._relay_clock = self.machines.clock()
        self._consumer_clocks = [self.machines.clock() for _ in range(2)]
        self._worker_clocks = [self.machines.clock() for _ in range(3)]
        self._rng = rng
        self._listener = Listener(database.url, self.metrics)
        self._directory = ConnectionDirectory(_load_connection, self._listener)
        self._verifier = WebhookVerifier(token_hash=bytes(32), connection_id=CONNECTION_ID, vendor=VENDOR.name)
        self._readers: dict[tuple[QueueName, int], Reader] = {}
        self._appliers: dict[int, Applier] = {}

    async def use(self, http: PretendHttp) -> None:
        """Start the processes; API calls go through `http`."""
        self.client = IntakeQClient(_connection(), http)
        for door in self.doors:
            await door.start()
        self.start_relay()
        await self.bus.start()

    async def close(self) -> None:
        """Let go of the spools' files."""
        for door in self.doors:
            await door.close()

    def start_relay(self) -> None:
        """Start the relay's process, with its link to the bus."""
        self._link = BusLink(self.bus, self.queue)
        self._relay = Relay(self.queue, self._link, self._listener, self.metrics, self._relay_clock, batch_events=20)

    async def lose_the_bus(self) -> None:
        """Let the bus forget everything, as a broker whose queues were deleted; who first comes back may die of it."""
        await self.bus.stop()
        self._readers = {}
        if not await self.lives(self._link.restore):
            self.start_relay()  # nobody knows any more that the queues were new
        await self.bus.start()

    async def accept(self, number: int, letters: Sequence[Letter]) -> int:
        """Let webhooks come to door `number` together; answer how many got their 200."""
        door = self.doors[number]
        told = {new_event_id(door.clock(), self._rng.randbytes(10)): letter for letter in letters}
        headers = (("Content-Type", "application/json"),)
        events = [incoming(event_id, self._verifier, headers, letter.body) for event_id, letter in told.items()]
        accepted = await door.receive(events)
        for event_id in accepted:
            self.ledger.accept(event_id, told[event_id], self.clock.now_ms)
        return len(accepted)

    async def drain(self) -> None:
        """Let every door carry all that its spool holds to PostgreSQL."""
        for door in self.doors:
            while await door.drain():
                pass

    async def relay(self) -> bool:
        """Let the relay publish what is due; when it dies, another takes its place."""
        if await self.lives(self._relay_once):
            return True
        self.start_relay()
        return False

    async def consume(self, number: int, at_most: int) -> int:
        """Let consumer `number` apply what it holds or what the bus has for it; answer how many messages."""
        reader = await self._reader(QueueName.APPLY_FRESH, number)
        deliveries = reader.held or await self._next(reader, QueueName.APPLY_FRESH, at_most)
        reader.held = ()
        if not deliveries:
            return 0
        applier = self._appliers.setdefault(number, self._applier(self._consumer_clocks[number]))
        event_ids = event_ids_in(deliveries)
        if await self.lives(lambda: applier.apply(event_ids)):
            await reader.subscription.acknowledge(deliveries)
        else:
            del self._appliers[number]
            await self._die(QueueName.APPLY_FRESH, number)
        return len(deliveries)

    async def stall(self, number: int, at_most: int) -> int:
        """Let consumer `number` take messages and do nothing with them for now."""
        reader = await self._reader(QueueName.APPLY_FRESH, number)
        if not reader.held:
            reader.held = await self._next(reader, QueueName.APPLY_FRESH, at_most)
        return len(reader.held)

    async def lose_acknowledgements(self, number: int) -> None:
        """Cut consumer `number` off from the bus: what it holds comes again, to anyone."""
        await self._die(QueueName.APPLY_FRESH, number)

    async def work(self, number: int) -> int:
        """Let worker `number` take one message and read the record that it names; answer how many messages."""
        reader = await self._reader(QueueName.REFETCH, 0)
        deliveries = await self._next(reader, QueueName.REFETCH, 1)
        if not deliveries:
            return 0
        await reader.subscription.acknowledge(deliveries)  # early, as the real worker does
        clock = self._worker_clocks[number]
        refetcher = Refetcher(self.queue, self.writer, self._directory, lambda _: self.client, self.metrics, clock)
        for event_id in event_ids_in(deliveries):
            await self.lives(lambda: self._refetch(refetcher, event_id))  # noqa: B023  # awaited at once
        return len(deliveries)

    async def bury(self) -> int:
        """Let the consumer of dead letters look at what the bus gave up on."""
        reader = await self._reader(QueueName.DEAD_LETTERS, 0)
        deliveries = await self._next(reader, QueueName.DEAD_LETTERS, _PREFETCH)
        burial = DeadLetterConsumer(self.queue, self._link, self.metrics, self._consumer_clocks[0])
        for event_id in event_ids_in(deliveries):
            await burial._bury(event_id)
        await reader.subscription.acknowledge(deliveries)
        return len(deliveries)

    async def live_appointments(self) -> list[tuple[str, date]]:
        """Tell which appointments have a row that lives, and on which day."""
        async with self.database.session() as session:
            rows = await session.fetch(
                "SELECT external_id, start_time FROM appointments WHERE deleted_at IS NULL ORDER BY 1"
            )
        return [(row["external_id"], row["start_time"].date()) for row in rows]

    async def lives(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Do `work`, again where PostgreSQL was away for a moment; False where its process was killed in it."""
        for _ in range(_TRIES):
            try:
                await work()
            except Killed:
                self.died += 1
                return False
            except Transient:
                self.clock.advance_ms(700)
            else:
                return True
        raise AssertionError("what failed once goes on failing")

    def _applier(self, clock: Clock) -> Applier:
        vendors = {VENDOR.name: VENDOR}
        return Applier(self.queue, self.writer, vendors, self._directory, self.metrics, clock)

    @staticmethod
    async def _refetch(refetcher: Refetcher, event_id: UUID) -> None:
        lease = await refetcher.lease(event_id)
        if lease is not None:
            await refetcher.refetch(lease)

    async def _relay_once(self) -> None:
        await self._link.restore()
        await self._relay.run_once()

    async def _reader(self, name: QueueName, number: int) -> Reader:
        if (name, number) not in self._readers:
            self._readers[name, number] = Reader(await self.bus.subscribe(name, _PREFETCH))
        return self._readers[name, number]

    async def _next(self, reader: Reader, name: QueueName, at_most: int) -> Sequence[Delivery]:
        return await reader.subscription.next_batch(at_most) if await self.bus.depth(name) else ()

    async def _die(self, name: QueueName, number: int) -> None:
        reader = self._readers.pop((name, number), None)
        if reader is not None:
            await reader.subscription.close()


async def _load_connection(_: ConnectionId) -> Connection:
    return _connection()


def _connection() -> Connection:
    return Connection(
        id=CONNECTION_ID,
        number=1,
        organization_id=ORGANIZATION_ID,
        vendor=VENDOR.name,
        base_url=BASE_URL,
        api_key="test-key",
        practice_id="practice-1",
    )
