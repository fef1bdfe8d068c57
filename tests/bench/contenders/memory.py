"""The memory of each role's process over RabbitMQ: early, when a twentieth of the events have become rows, and at last.

Appointments are made and then changed again and again, as many as a large practice has; the management API is asked
all the while. What the imports of each role alone take is measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.child import python, running
from bench.contender import Assignment, contend
from bench.contenders.memory_baseline import bare_interpreter_mb, import_baseline_mb
from bench.contest import CPU_SECONDS, LOST, MEMORY_MB, Figures
from bench.practice import add_practice
from e2e.eventsync_process import environment
from eventsync.bench.load import closed_loop
from eventsync.bench.specimens import appointment_webhook
from eventsync.bench.usage import usage_of
from eventsync.postgres.access import ApiTokens
from eventsync.postgres.access import Role as TokenRole
from eventsync.postgres.database import Database
from eventsync.wiring import Role, utc_now
from servers.eventually import eventually
from servers.ports import free_ports

ROLES = tuple(role.value for role in Role)
EARLY_SHARE = 20  # of a million: 50,000

_CONNECTIONS = 64
_APPOINTMENTS = 100_000
_CHUNK = 5_000  # made and posted at once; between them the API is asked, and a backlog is waited for
_MOST_WAITING = 20_000
_SETTLES_WITHIN_S = 300.0
_HTTP_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class _Product:
    """The six processes: their ids and addresses by role."""

    pids: Mapping[str, int]
    urls: Mapping[str, str]


async def work(assignment: Assignment) -> Figures:
    """Load the six processes, and look at their memory twice."""
    database = Database(assignment.database_url, max_connections=1)
    await database.open()
    practice = await add_practice(database)
    token = (await ApiTokens(database).add(TokenRole.ADMIN, None, utc_now())).token
    early = assignment.events // EARLY_SHARE
    began = time.perf_counter()
    async with _six_processes(assignment) as product:
        url = product.urls["ingress"] + practice.webhook_path
        await _send(database, product, url, token, range(early))
        before = _memory(product)
        await _send(database, product, url, token, range(early, assignment.events))
        after = _memory(product)
        cpu_seconds = sum(usage.cpu_seconds for pid in product.pids.values() if (usage := usage_of(pid)))
    seconds = time.perf_counter() - began
    async with database.session() as session:
        lost = assignment.events - await session.fetchval("SELECT count(*) FROM event_history")
    await database.close()
    figures = {"events": assignment.events, "seconds": seconds, CPU_SECONDS.name: cpu_seconds, LOST.name: lost}
    return figures | {MEMORY_MB.name: max(after.values())} | await _by_role(before, after)


async def _by_role(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    figures = {"bare_mb": await bare_interpreter_mb(Path.cwd())}
    for role in ROLES:
        imports_mb = await import_baseline_mb(role, Path.cwd())
        figures |= {
            f"{role}_imports_mb": imports_mb,
            f"{role}_early_mb": before[role],
            f"{role}_mb": after[role],
            f"{role}_growth_mb": after[role] - before[role],
            f"{role}_over_imports_mb": after[role] - imports_mb,
        }
    return figures


@asynccontextmanager
async def _six_processes(assignment: Assignment) -> AsyncIterator[_Product]:
    ports = dict(zip(ROLES, free_ports(len(ROLES)), strict=True))
    pids = {}
    async with AsyncExitStack() as stack:
        for role, port in ports.items():
            option = "--port" if role in {"ingress", "api"} else "--health-port"
            command = python(role, "eventsync", "run", role, option, str(port))
            settings = environment(Path.cwd() / role, assignment.database_url, assignment.amqp_url)
            process = await stack.enter_async_context(
                running(command, settings, ready_url=f"http://127.0.0.1:{port}/readyz")
            )
            pids[role] = process.pid
        yield _Product(pids, {role: f"http://127.0.0.1:{port}" for role, port in ports.items()})


async def _send(database: Database, product: _Product, url: str, token: str, numbers: range) -> None:
    """Post webhooks, ask the API and every probe now and then, and wait until all have ended."""
    for start in range(numbers.start, numbers.stop, _CHUNK):
        bodies = [_body(number) for number in range(start, min(start + _CHUNK, numbers.stop))]
        result = await closed_loop(url, bodies, connections=_CONNECTIONS)
        if result.accepted < len(bodies):
            raise RuntimeError(f"of {len(bodies)} webhooks {result.accepted} were accepted; refused: {result.statuses}")
        await _ask(product, token)
        await _until_waiting(database, _MOST_WAITING)
    await _until_waiting(database, 0)


def _body(number: int) -> bytes:
    version, appointment = divmod(number, _APPOINTMENTS)
    return appointment_webhook(appointment, version_ms=1_800_000_000_000 + version, is_update=version > 0)


async def _ask(product: _Product, token: str) -> None:
    timeout = aiohttp.ClientTimeout(total=_HTTP_TIMEOUT_S)
    authorized = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as http:
        for path in ("/api/v1/events?limit=100", "/api/v1/appointments?limit=100"):
            async with http.get(product.urls["api"] + path, headers=authorized) as answer:
                await answer.read()
        for url in product.urls.values():
            async with http.get(f"{url}/metrics") as answer:
                await answer.read()


async def _until_waiting(database: Database, at_most: int) -> None:
    async def is_little() -> bool:
        async with database.session() as session:
            return int(await session.fetchval("SELECT count(*) FROM event_queue")) <= at_most

    await eventually(is_little, _SETTLES_WITHIN_S)


def _memory(product: _Product) -> dict[str, float]:
    seen = {role: usage_of(pid) for role, pid in product.pids.items()}
    return {role: usage.memory_mb for role, usage in seen.items() if usage is not None}


if __name__ == "__main__":
    contend(work)
