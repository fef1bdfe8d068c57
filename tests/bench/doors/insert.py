"""A door with one INSERT a request: the same verifying, sealing and statement as ours, but each request by itself."""

from __future__ import annotations

import secrets

import orjson
from aiohttp import web

from bench.doors.serving import Handler, Site, serve
from bench.practice import bench_keyring
from eventsync.crypto import hash_token
from eventsync.domain.events import new_event_id
from eventsync.postgres.queue import EventQueue
from eventsync.stages.incoming import incoming
from eventsync.wiring import utc_now


def handler(site: Site) -> Handler:
    """Make the handler."""
    queue = EventQueue(site.database, bench_keyring())

    async def handle(request: web.Request) -> web.Response:
        verifier = site.verifiers.get(hash_token(request.match_info["token"]))
        if verifier is None:
            return web.Response(status=401)
        event_id = new_event_id(utc_now(), secrets.token_bytes(10))
        await queue.store([incoming(event_id, verifier, tuple(request.headers.items()), await request.read())])
        answer = orjson.dumps({"status": "accepted", "event_id": str(event_id)})
        return web.Response(body=answer, content_type="application/json")

    return handle


if __name__ == "__main__":
    serve(handler)
