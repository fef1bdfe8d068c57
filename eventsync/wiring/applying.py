"""Builds what applies events in one process: the workers of the `consumer` and `worker` roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsync.bus.wire import QueueName
from eventsync.crypto import fingerprint
from eventsync.domain.connections import Connection
from eventsync.postgres.records import RecordWriter
from eventsync.stages.apply import Applier, Consumer
from eventsync.stages.dead_letters import DeadLetterConsumer
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.refetch import Refetcher, RefetchWorker
from eventsync.supervisor import Worker
from eventsync.vendorkit.http import VendorHttp
from eventsync.vendorkit.vendor import VendorClient
from eventsync.wiring.accounts import budget_of
from eventsync.wiring.metered import MeteredBudget

if TYPE_CHECKING:  # the process makes these
    from eventsync.wiring.process import Process


class Applying:
    """The parts that the two roles share, made once each."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.writer = RecordWriter(process.options.keyring)
        self.directory = ConnectionDirectory(process.connections.load_connection, process.listener)
        self._clients: dict[str, VendorHttp] = {}

    def consumers(self) -> list[Worker]:
        """Make the consumers: of fresh events as many as are asked for, and one each of the other queues."""
        process = self._process
        fresh = [self._consumer(QueueName.APPLY_FRESH, number) for number in range(process.options.consumers)]
        bulk = self._consumer(QueueName.APPLY_BULK, 0)
        return [*fresh, bulk, DeadLetterConsumer(process.queue, process.link, process.metrics, process.clock)]

    def refetch_worker(self) -> Worker:
        """Make the worker that reads records from the vendors."""
        process = self._process
        refetcher = Refetcher(
            process.queue, self.writer, self.directory, self.open_client, process.metrics, process.clock
        )
        return RefetchWorker(refetcher, process.link)

    def open_client(self, connection: Connection) -> VendorClient:
        """Open a connection's account at its vendor, within the budget of its API key."""
        process = self._process
        key = fingerprint(connection.api_key)
        if key not in self._clients:
            budget = budget_of(process.database, connection, process.clock)
            process.budgets[str(connection.number)] = budget
            metered = MeteredBudget(budget, connection.vendor, process.metrics)
            self._clients[key] = VendorHttp(process.http, metered)
        return process.record_vendors[connection.vendor].client(connection, self._clients[key])

    def _consumer(self, queue_name: QueueName, number: int) -> Worker:
        process = self._process
        applier = Applier(process.queue, self.writer, process.vendors, self.directory, process.metrics, process.clock)
        consumer = Consumer(applier, process.link, queue_name)
        consumer.name = f"consumer:{queue_name.value}:{number}"
        return consumer
