"""A door that verifies the token, parses the body and stores nothing: what aiohttp itself costs."""

from __future__ import annotations

import orjson
from aiohttp import web

from bench.doors.serving import Handler, Site, serve
from eventsync.crypto import hash_token

_ACCEPTED = b'{"status":"accepted"}'


def handler(site: Site) -> Handler:
    """Make the handler."""

    async def handle(request: web.Request) -> web.Response:
        if hash_token(request.match_info["token"]) not in site.verifiers:
            return web.Response(status=401)
        orjson.loads(await request.read())
        return web.Response(body=_ACCEPTED, content_type="application/json")

    return handle


if __name__ == "__main__":
    serve(handler)
