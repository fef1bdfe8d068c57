"""A peer's worker process: `python -m bench.peers.worker PEER CONNECTION_ID`; ended by SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from uuid import UUID

import uvloop

from bench.peers.job import Job
from bench.peers.peer import Servers, load_peer
from eventsync.postgres.database import Database


async def main() -> None:
    """Work until told to stop."""
    _, name, connection_id = sys.argv
    logging.basicConfig(level=logging.WARNING)
    peer = load_peer(name)
    servers = Servers(os.environ["EVENTSYNC_DATABASE_URL"], os.environ["EVENTSYNC_AMQP_URL"])
    database = Database(servers.database_url, max_connections=peer.connections)
    await database.open()
    working = asyncio.ensure_future(peer.work(servers, Job(database, UUID(connection_id)).apply))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    with suppress(asyncio.CancelledError):
        await working
    await database.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as eventsync itself runs
        runner.run(main())
