"""Builds the door of one process: what only the `ingress` role needs, its spool among it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from eventsync.postgres.access import RefusalCounts
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.spool.spool import Spool
from eventsync.stages.receive import Receiver, SpoolDrain
from eventsync.stages.verify import VerifierBook
from eventsync.supervisor import Worker
from eventsync.web.evidence import RefusalLog
from eventsync.web.health import Part
from eventsync.web.ingress import Ingress
from eventsync.wiring.readiness import door_part, spool_part

if TYPE_CHECKING:  # the process makes its door
    from eventsync.wiring.process import Process


class Door:
    """The parts of the door, made once each. It opens nothing by itself."""

    def __init__(self, process: Process) -> None:
        self._process = process
        clock, keyring, settings = process.clock, process.options.keyring, process.options.settings
        self.spool = Spool(settings.data_dir / "spool.sqlite3", keyring, clock=clock)
        self._receiver = Receiver(process.queue, self.spool, process.metrics, clock)
        self._book = VerifierBook(WebhookTokens(process.database, keyring), self.spool, process.listener, clock)
        self._refusals = RefusalLog(RefusalCounts(process.database), clock)

    def workers(self) -> list[Worker]:
        """Make the workers, in the order in which they stop."""
        process = self._process
        drain = SpoolDrain(
            self._receiver, process.queue, process.retention, self.spool, self._book, process.metrics, process.clock
        )
        return [self._receiver, drain, self._book, self._refusals]

    def add_routes(self, app: web.Application) -> None:
        """Serve the webhooks."""
        process = self._process
        ingress = Ingress(
            self._receiver,
            self._book,
            process.vendors,
            process.metrics,
            process.clock,
            count_refusal=self._refusals.count,
            trusted_networks=process.options.settings.trusted_networks,
        )
        ingress.add_routes(app)

    def parts(self) -> list[Part]:
        """List what the probes ask of the door."""
        return [door_part(self._process.database, self.spool), spool_part(self.spool)]
