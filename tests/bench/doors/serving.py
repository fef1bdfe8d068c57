"""What the doors share: they know the tokens as ours does, listen on a port, and answer when asked whether they run."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import uvloop
from aiohttp import web

from bench.practice import bench_keyring
from eventsync.domain.connections import WebhookVerifier
from eventsync.postgres.database import Database
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.wiring import utc_now

Handler = Callable[[web.Request], Awaitable[web.Response]]
WEBHOOK_ROUTE = "/api/webhooks/{vendor}/{token}"


@dataclass(frozen=True, slots=True)
class Site:
    """What a handler is made of: the open database and the valid tokens by their hashes."""

    database: Database
    verifiers: Mapping[bytes, WebhookVerifier]


def serve(make_handler: Callable[[Site], Handler]) -> None:
    """Serve webhooks with a handler until SIGTERM, on uvloop and without an access log, as ours does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(make_handler, port))


async def _serve(make_handler: Callable[[Site], Handler], port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    database = Database(os.environ["EVENTSYNC_DATABASE_URL"])
    await database.open()
    known = await WebhookTokens(database, bench_keyring()).load_verifiers(utc_now())
    app = web.Application()
    app.router.add_post(WEBHOOK_ROUTE, make_handler(Site(database, {each.token_hash: each for each in known})))
    app.router.add_get("/readyz", _ready)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await stop.wait()
    await runner.cleanup()
    await database.close()


async def _ready(_: web.Request) -> web.Response:
    return web.Response(text="ready")
