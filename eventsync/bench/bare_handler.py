"""The machine's own limit for a door: an aiohttp handler that verifies the token, parses the JSON and stores nothing.

Run as `python -m eventsync.bench.bare_handler`, with the token's hash in hexadecimal as the first line of its standard
input; the first line of its output is the port on the loopback interface. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

import orjson
import uvloop
from aiohttp import web

from eventsync.crypto import hash_token

PATH = "/webhooks/"


async def _serve(token_hash: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        if hash_token(request.match_info["token"]) != token_hash:
            return web.Response(status=401)
        orjson.loads(await request.read())
        accepted = {"status": "accepted", "event_id": str(uuid4())}
        return web.Response(body=orjson.dumps(accepted), content_type="application/json")

    app = web.Application()
    app.router.add_post(PATH + "{token}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201  # this is how it tells its port
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as main:
        main.run(_serve(bytes.fromhex(sys.stdin.readline())))
