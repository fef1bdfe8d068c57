"""A site that is asked for syncs: partners of its practices, runs asked for, and an API that does not wait long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web
from aiohttp.test_utils import TestServer

from eventsync.domain.connections import OrganizationId
from eventsync.domain.runs import Run
from eventsync.postgres.access import Role
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.affiliations import Affiliations
from eventsync.postgres.runs import Runs
from eventsync.postgres.tenants import Connections, Organizations
from eventsync.vendors import load_vendors
from eventsync.wiring.api import make_api
from eventsync.wiring.process import Process
from servers.eventually import eventually
from web.api_site import NOW, Answer, Practice, Site

FOLLOWING = AffiliationTerms()
_LOCK = "SELECT pg_advisory_lock(hashtextextended('eventsync:runs:' || $1::uuid::text, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('eventsync:runs:' || $1::uuid::text, 0))"
_WAITING = (
    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE NOT granted AND locktype = 'advisory' AND datname = current_database()"
)


@asynccontextmanager
async def hasty_site(site: Site, process: Process, answer_within_s: float = 0.1) -> AsyncIterator[Site]:
    """Serve the same site where answers do not wait long, and where no CRON_SECRET is set."""
    app = web.Application()
    parts = process.database, site.keyring, process.connections, process.queue, process.clock
    make_api(*parts, answer_within_s=answer_within_s).add_routes(app)
    async with TestServer(app) as server:
        yield replace(site, address=str(server.make_url("")).rstrip("/"))


def connections_of(site: Site) -> Connections:
    """The site's connections."""
    return Connections(site.pool, site.keyring, load_vendors())


async def disable(site: Site, practice: Practice) -> None:
    """End a practice's connection."""
    await connections_of(site).disable(practice.connection_id, None, NOW)


async def runs_of(site: Site) -> list[Run]:
    """List every run that was asked for."""
    return await Runs(site.pool).recent(at_most=100)


async def asked_for(site: Site, practice: Practice, call: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
    """Make a call that asks for a run of the practice's connection; answers it once it has asked, and waits.

    Requests for one connection queue for a lock: we hold it until the call's stands in the queue, and have our next
    turn after it.
    """
    async with site.pool.session() as session:

        async def queues() -> bool:
            return bool(await session.fetchval(_WAITING))

        await session.execute(_LOCK, practice.connection_id)
        task = asyncio.create_task(call)
        await eventually(queues)
        await session.execute(_UNLOCK, practice.connection_id)
        await session.execute(_LOCK, practice.connection_id)
        await session.execute(_UNLOCK, practice.connection_id)
    return task


async def partner_of(site: Site) -> tuple[OrganizationId, str]:
    """Make an organization without a connection, and a token of its own."""
    organization = await Organizations(site.pool).add("Test Recovery Centre", f"partner-{uuid4()}", NOW)
    return organization.id, (await site.token(Role.OPERATOR, organization.id)).token


async def follow(site: Site, patient_id: UUID, partner: OrganizationId, terms: AffiliationTerms = FOLLOWING) -> UUID:
    """Let an organization follow a patient of the first practice."""
    return await Affiliations(site.pool).add(site.practice.organization_id, patient_id, partner, terms, NOW)


async def local_patient(site: Site) -> UUID:
    """Let the first practice know somebody whom no vendor knows."""
    patient_id = uuid4()
    async with site.pool.session() as session:
        await session.execute(
            "INSERT INTO patients (id, organization_id, first_name, last_name, email, origin)"
            " VALUES ($1, $2, 'Test', 'Client', 'client12@example.test', 'local')",
            patient_id,
            site.practice.organization_id,
        )
    return patient_id
