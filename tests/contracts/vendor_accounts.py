"""A vendor's pretend service with our adapter on it: what the suites over the vendors stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp

from eventsync.domain.changes import Change, Delete, Upsert
from eventsync.domain.connections import Connection, ConnectionId, OrganizationId
from eventsync.domain.records import content_hash
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.sandbox import Effect, NotPossibleError, QuotaLimits, RunningSandbox, SandboxOptions, serve
from eventsync.vendorkit.budget import Purpose, ReservationId
from eventsync.vendorkit.http import PostBounds, VendorHttp
from eventsync.vendorkit.vendor import Vendor

CONNECTION_ID = ConnectionId(UUID(int=1))
CONTEXT = WebhookContext(CONNECTION_ID)
START_MS = 1_790_000_000_000  # September 2026
READ_BEGAN_MS = START_MS + 1_000
NO_QUOTA = QuotaLimits(per_minute=None, per_day=None)
POST_BOUNDS = PostBounds(connect_timeout_s=2.0, timeout_s=2.0)


@dataclass
class CountingBudget:
    """Grants every call, and counts."""

    reserved: int = 0
    finished: int = 0
    refused_s: list[float] = field(default_factory=list)

    async def reserve(self, purpose: Purpose) -> ReservationId:
        assert purpose in Purpose
        self.reserved += 1
        return ReservationId(self.reserved)

    async def finish(self, reservation: ReservationId) -> None:
        assert reservation <= self.reserved
        self.finished += 1

    async def refused(self, retry_after_s: float) -> None:
        self.refused_s.append(retry_after_s)


@dataclass
class Service:
    """A vendor's pretend service, and what a client of ours is opened with."""

    vendor: Vendor
    running: RunningSandbox
    connection: Connection
    access: VendorHttp
    budget: CountingBudget

    @property
    def fired_actions(self) -> list[str]:
        """The actions that the vendor sends a webhook of."""
        return [name for name, action in self.running.sandbox.vendor.actions.items() if action.kind is not None]

    def webhooks_of(self, *actions: str) -> list[WebhookReading]:
        """Do each action at the vendor, and read the webhooks that it would send."""
        effects = [self._done(action) for action in actions]
        return [self.vendor.read_webhook(hook.body, {}, CONTEXT) for effect in effects for hook in effect.webhooks]

    def _done(self, action: str) -> Effect:
        """Do it; where nothing stands ready for it, what people do by chance makes something ready."""
        sandbox = self.running.sandbox
        chance = [name for name, other in sandbox.vendor.actions.items() if other.weight > 0]
        for before in (None, *chance):
            with suppress(NotPossibleError):
                if before is not None:
                    sandbox.act(before)
                return sandbox.act(action)
        raise AssertionError(f"nothing makes {action} possible")


@asynccontextmanager
async def serving(vendor: Vendor, api_key: str | None = None, **options: Any) -> AsyncIterator[Service]:
    """Run the vendor's pretend service; `api_key` is what our connection holds instead of the right one."""
    values: dict[str, Any] = {"clients": 20, "appointments": 60, "start_ms": START_MS, "quota": NO_QUOTA} | options
    budget = CountingBudget()
    async with serve(SandboxOptions(vendor=vendor.name, **values)) as running, aiohttp.ClientSession() as session:
        connection = Connection(
            CONNECTION_ID, 1, OrganizationId(UUID(int=2)), vendor.name, running.api_url, api_key or running.api_key
        )
        access = VendorHttp(session, budget, retry_base_s=0.0, post_bounds=POST_BOUNDS)
        yield Service(vendor, running, connection, access, budget)


def check_orderly(changes: Sequence[Change]) -> None:
    """Hold that changes are about this connection, and that their versions say what they hold."""
    for change in changes:
        assert change.entity.connection_id == CONNECTION_ID
        assert change.entity.external_id
        if isinstance(change, Upsert | Delete):
            assert change.version.content_hash == content_hash(change.content)
            assert change.version.deleted == isinstance(change, Delete)
            assert change.version.to_bytes()
