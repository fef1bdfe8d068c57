"""The machine's own limits, measured in the same run, so that figures can be told as ratios to them."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventsync.bench.bare_handler import PATH
from eventsync.bench.latencies import Latencies
from eventsync.bench.load import closed_loop
from eventsync.bench.place import open_database
from eventsync.crypto import hash_token
from eventsync.domain.errors import Transient

_STARTS_WITHIN_S = 30.0
_ENDS_WITHIN_S = 10.0
_COMMITTING_S = 1.0
_WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """Webhooks a second of a handler that stores nothing, and durable commits a second, one after the other."""

    handler_events_per_s: float
    handler_latencies: Latencies
    commits_per_s: float


async def measure_limits(
    bodies: Sequence[bytes], connections: int, database_url: str, on_progress: Callable[[int], None]
) -> Limits:
    """Measure both. The handler gets `bodies` over `connections`. Raises Transient where it does not start."""
    token = secrets.token_urlsafe(32)
    handler = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventsync.bench.bare_handler",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        url = await _handler_url(handler, token)
        await closed_loop(url, bodies[:_WARM_UP], connections=connections)
        load = await closed_loop(url, bodies, connections=connections, on_progress=on_progress)
    finally:
        handler.kill()
        async with asyncio.timeout(_ENDS_WITHIN_S):
            await handler.wait()
    if load.accepted != len(bodies):
        raise Transient("the bare handler did not answer every webhook: too little memory or too many connections?")
    return Limits(load.events_per_s, load.latencies, await commits_per_s(database_url))


async def commits_per_s(database_url: str) -> float:
    """Commit one small row after the other over one connection, for a second."""
    async with open_database(database_url) as database, database.session() as session:
        await session.execute("CREATE TABLE bench_commits (number bigint)")
        statement = await session.prepare("INSERT INTO bench_commits VALUES ($1)")
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < _COMMITTING_S:
            await statement.fetch(count)
            count += 1
    return count / elapsed


async def _handler_url(handler: asyncio.subprocess.Process, token: str) -> str:
    assert handler.stdin is not None  # noqa: S101  # both are pipes
    assert handler.stdout is not None  # noqa: S101
    handler.stdin.write(hash_token(token).hex().encode() + b"\n")
    async with asyncio.timeout(_STARTS_WITHIN_S):
        await handler.stdin.drain()
        line = await handler.stdout.readline()
    if not line.strip().isdigit():
        raise Transient("the bare handler did not start: is the loopback interface there?")
    return f"http://127.0.0.1:{int(line)}{PATH}{token}"
