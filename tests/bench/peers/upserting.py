"""Doors that put a webhook's row into the table within the request, as a plain web handler does.

`python -m bench.peers.upserting plain --port N` executes one upsert of the appointment, which commits by itself;
`whole` calls our own write function in a transaction: client, appointment, guard against older versions, and news. Both
check the token and the signature and use our mapping.
"""

from __future__ import annotations

import secrets
import sys
from uuid import UUID

from aiohttp import web

from bench.doors.serving import Handler, Site, serve
from bench.peers.job import Job
from bench.plain_upsert import UPSERT, values
from eventsync.crypto import hash_token
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.events import new_event_id
from eventsync.domain.webhooks import WebhookContext
from eventsync.vendorkit.signing import verify
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

_ACCEPTED = b'{"status":"accepted"}'


def plain(site: Site) -> Handler:
    """Make the handler with one statement."""
    read = load_vendors()["intakeq"].read_webhook

    async def handle(request: web.Request) -> web.Response:
        verifier, body = await _verified(site, request)
        reading = read(body, request.headers, WebhookContext(verifier.connection_id))
        event_id = new_event_id(utc_now(), secrets.token_bytes(10))
        async with site.database.session() as session:
            await session.execute(UPSERT, *values(event_id, reading))
        return web.Response(body=_ACCEPTED, content_type="application/json")

    return handle


def whole(site: Site) -> Handler:
    """Make the handler with our write function."""
    jobs: dict[UUID, Job] = {
        each.connection_id: Job(site.database, each.connection_id) for each in site.verifiers.values()
    }

    async def handle(request: web.Request) -> web.Response:
        verifier, body = await _verified(site, request)
        await jobs[verifier.connection_id].apply(body)
        return web.Response(body=_ACCEPTED, content_type="application/json")

    return handle


async def _verified(site: Site, request: web.Request) -> tuple[WebhookVerifier, bytes]:
    verifier = site.verifiers.get(hash_token(request.match_info["token"]))
    body = await request.read()
    if verifier is None or (verifier.hmac is not None and not verify(verifier.hmac, request.headers, body)):
        raise web.HTTPUnauthorized
    return verifier, body


if __name__ == "__main__":
    serve({"plain": plain, "whole": whole}[sys.argv.pop(1)])
