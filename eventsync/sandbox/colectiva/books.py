"""What Colectiva holds: organizations and payments, with the count and the feed of their changes. Pure."""

import hashlib
import random
import uuid
from typing import Any

from eventsync.sandbox.changes import ChangeFeed
from eventsync.sandbox.colectiva.forms import PAYMENT
from eventsync.sandbox.colectiva.organizations import Organization, organization_from_state
from eventsync.sandbox.colectiva.payments import Payment
from eventsync.sandbox.pool import Pool
from eventsync.sandbox.vendor import RecordChange

ORGANIZATION = "organization"  # the kind of record beside payments


class Books:
    """All records; organizations by the app's id of them, payments by Colectiva's."""

    def __init__(self, seed: int, serial: int = 0) -> None:
        self.seed = seed
        self.serial = serial  # numbers every payment; with it a restarted marketplace never repeats one
        self.rng = random.Random(f"{seed}:payments:{serial}")
        self.revision = 0
        self.changes = ChangeFeed()
        self.organizations: dict[str, Organization] = {}
        self.payments: dict[str, Payment] = {}
        self._pools: dict[tuple[str, str], Pool[str]] = {}  # payments' ids by type and status

    def remote_id(self, app_org_id: str) -> str:
        """Colectiva's id of an organization: always the same for the same one."""
        return "org_" + hashlib.sha256(f"{self.seed}:{app_org_id}".encode()).hexdigest()[:24]

    def payment_id(self, payment_type: str) -> str:
        """A new id."""
        self.serial += 1
        tag = hashlib.sha256(f"payments {self.seed}".encode()).hexdigest()[:8]
        return f"{payment_type}_{tag}{self.serial:08x}"

    def invented_uuid(self, what: str, number: int) -> str:
        """The id of something that an app has, such as a booking."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.seed}:{what}:{number}"))

    def put_organization(self, organization: Organization) -> None:
        """Store a new or changed organization."""
        self.organizations[organization.app_org_id] = organization
        self._count(ORGANIZATION, organization.id, organization.modified_ms)

    def put_payment(self, payment: Payment) -> None:
        """Store a new or changed payment and keep the pools true."""
        before = self.payments.get(payment.id)
        if before is not None:
            self.pool(before.type, before.status).discard(payment.id)
        self.payments[payment.id] = payment
        self.pool(payment.type, payment.status).add(payment.id)
        self._count(PAYMENT, payment.id, payment.modified_ms)

    def pool(self, payment_type: str, status: str) -> Pool[str]:
        """The payments of that type that stand so."""
        return self._pools.setdefault((payment_type, status), Pool())

    def _count(self, kind: str, record_id: str, modified_ms: int) -> None:
        self.revision += 1
        self.changes.add(RecordChange(self.revision, kind, record_id, modified_ms))

    def to_state(self) -> dict[str, Any]:
        """All records as lists, for saving."""
        return {
            "seed": self.seed,
            "serial": self.serial,
            "organizations": list(self.organizations.values()),
            "payments": list(self.payments.values()),
        }


def books_from_state(state: dict[str, Any]) -> Books:
    """The books that `to_state` wrote, after a JSON round trip; raises KeyError or TypeError on anything else."""
    books = Books(state["seed"], state["serial"])
    for row in state["organizations"]:
        books.put_organization(organization_from_state(row))
    for row in state["payments"]:
        books.put_payment(Payment(**row))
    return books
