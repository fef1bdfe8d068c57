"""A management API as a process of the role `api` serves it, with practices and people to ask it about."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import UUID

import aiohttp

from eventsync.crypto import Keyring
from eventsync.domain.changes import Authority, EntityRef, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Outcome, new_event_id
from eventsync.domain.records import Appointment, AppointmentStatus, Content, Patient, RecordKind, content_hash
from eventsync.domain.records import patient_id_of as patient_id_of_client
from eventsync.postgres.access import AccessLog, ApiTokens, NewApiToken, Role
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue, finish
from eventsync.postgres.queue_values import Finished, Parked
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.vendors import load_vendors

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
BODY = b'{"EventType":"AppointmentCreated","Note":"Test Client 12"}'
HEADERS = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said."""

    status: int
    headers: Mapping[str, str]
    json: Any = field(repr=False)

    @property
    def code(self) -> str:
        """The error's code; the whole object is looked at on the way."""
        details = self.json["details"]
        assert self.json["success"] is False
        assert set(self.json) == {"success", "error", "details", "timestamp"}
        assert set(details) == {"error_type", "message", "retry_after", "error_code"}
        assert details["error_code"] == details["error_type"].upper()
        return str(details["error_type"])

    @property
    def ids(self) -> list[str]:
        """The ids of a page's items."""
        return [item.get("event_id") or item["id"] for item in self.json["items"]]


@dataclass(frozen=True, slots=True)
class Practice:
    """An organization with one connection, and a token for each role that is bound to it."""

    organization_id: OrganizationId
    external_id: str
    connection_id: ConnectionId
    operator: str
    viewer: str


@dataclass(frozen=True, slots=True)
class Site:
    """The API's address and the database behind it; `practice` and `other` know nothing of each other."""

    address: str
    http: aiohttp.ClientSession
    pool: Database
    keyring: Keyring
    practice: Practice
    other: Practice
    admin: str

    @property
    def queue(self) -> EventQueue:
        """The queue that the API's process works on."""
        return EventQueue(self.pool, self.keyring)

    async def get(self, path: str, token: str | None, *, org: str | None = None, **query: str) -> Answer:
        """Ask."""
        return await self.call("GET", path, token, org=org, query=query)

    async def post(self, path: str, token: str | None, **query: str) -> Answer:
        """Ask for a change."""
        return await self.call("POST", path, token, query=query)

    async def read_all(self, path: str, token: str, **query: str) -> list[str]:
        """Read a listing page by page to its end, and tell the ids in it."""
        page = await self.get(path, token, **query)
        ids = page.ids
        while page.json["next_cursor"] is not None:
            page = await self.get(path, token, cursor=page.json["next_cursor"], **query)
            ids += page.ids
        return ids

    async def call(
        self,
        method: str,
        path: str,
        token: str | None,
        *,
        org: str | None = None,
        query: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        data: bytes | BytesIO | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """Make one request."""
        sent = list(headers)
        sent += [("Authorization", f"Bearer {token}")] if token is not None else []
        sent += [("X-Organization-ID", org)] if org is not None else []
        async with self.http.request(
            method, self.address + path, params=query, data=data, headers=sent, timeout=aiohttp.ClientTimeout(20)
        ) as response:
            return Answer(response.status, dict(response.headers), await response.json())

    async def token(self, role: Role, organization_id: OrganizationId | None) -> NewApiToken:
        """Make a token."""
        return await ApiTokens(self.pool).add(role, organization_id, NOW)

    async def accesses(self) -> list[tuple[str, str, str]]:
        """Tell what the access log holds: actor, action, subject, the earliest first."""
        found = [access for _, access in await AccessLog(self.pool).latest()]
        return [(access.actor, access.action, access.subject) for access in reversed(found)]

    async def event(self, practice: Practice, at_s: float = 0, *, body: bytes = BODY) -> EventId:
        """Receive an event `at_s` seconds after NOW."""
        event_id = new_event_id(NOW + timedelta(seconds=at_s), secrets.token_bytes(10))
        event = IncomingEvent(event_id, practice.connection_id, "intakeq", EventSource.WEBHOOK, HEADERS, body)
        await self.queue.store([event])
        return event_id

    async def finished_event(self, practice: Practice, at_s: float = 0, *, entity: str = "appointment:a1") -> EventId:
        """Receive an event, and let it have been applied to a record."""
        event_id = await self.event(practice, at_s)
        kind, _, external_id = entity.partition(":")
        end = Finished(
            event_id, Outcome.APPLIED, "AppointmentCreated", kind, external_id, 1, changed_fields=("status",)
        )
        async with self.pool.transaction() as session:
            await finish(session, [end], NOW)
        return event_id

    async def park(self, event_id: EventId) -> None:
        """Set an event aside."""
        await self.queue.park([Parked(event_id, "not_json", "The body is not JSON.")])

    async def client(self, practice: Practice, number: str, last_name: str = "Client") -> UUID:
        """Let a client of the practice be known."""
        content = Patient("Test", last_name, email=f"client{number}@example.test")
        await self._write(EntityRef(practice.connection_id, RecordKind.PATIENT, number), content)
        return patient_id_of_client(practice.connection_id, number)

    async def appointment(self, practice: Practice, external_id: str, client: str, start: datetime = NOW + DAY) -> None:
        """Let an appointment of a client's be known."""
        end = start + timedelta(minutes=50)
        content = Appointment(AppointmentStatus.CONFIRMED, "Confirmed", start, end, client_external_id=client)
        await self._write(EntityRef(practice.connection_id, RecordKind.APPOINTMENT, external_id), content)

    async def follow(self, patient_id: UUID, owner: Practice, partner: Practice, terms: AffiliationTerms) -> UUID:
        """Let a partner follow a patient."""
        affiliations = Affiliations(self.pool)
        return await affiliations.add(owner.organization_id, patient_id, partner.organization_id, terms, NOW)

    async def _write(self, ref: EntityRef, content: Content) -> None:
        version = Version(Authority.RECORD, 1_772_000_000_000, False, Source.API, 1, 1, content_hash(content))
        async with self.pool.transaction() as session:
            await RecordWriter(self.keyring).write(session, [EventChange(None, Upsert(ref, version, content))], NOW)


async def make_practice(pool: Database, keyring: Keyring, external_id: str) -> Practice:
    """Make an organization, its connection and its tokens."""
    organization = await Organizations(pool).add("Test Practice", external_id, NOW)
    new = NewConnection(organization.id, "intakeq", f"key-of-{external_id}", base_url="http://127.0.0.1:9/api/v1")
    connection = await Connections(pool, keyring, load_vendors()).add(new, NOW)
    tokens = ApiTokens(pool)
    operator, viewer = [await tokens.add(role, organization.id, NOW) for role in (Role.OPERATOR, Role.VIEWER)]
    return Practice(organization.id, external_id, connection.id, operator.token, viewer.token)
