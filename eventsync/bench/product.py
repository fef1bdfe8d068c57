"""eventsync as its users run it, for the benchmark: processes of their own, started by their command, and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from eventsync.bench.options import BusKind
from eventsync.domain.errors import Transient

_READY_WITHIN_S = 60.0
_STOPS_WITHIN_S = 30.0
_KILLED_WITHIN_S = 10.0
_POLL_S = 0.05
_LAST_WORDS = 5  # lines of the log

_PROCESSES: Mapping[BusKind, Mapping[str, Sequence[str]]] = {
    BusKind.MEMORY: {"eventsync (all roles)": ()},
    BusKind.RABBITMQ: {
        "ingress": ("ingress",),
        "relay": ("relay",),
        "consumer, worker, scheduler": ("consumer", "worker", "scheduler"),
    },
}


@dataclass(frozen=True, slots=True)
class Product:
    """A running eventsync: where webhooks go in, and the id of each of its processes by what it does."""

    base_url: str
    pids: Mapping[str, int]


@asynccontextmanager
async def running_product(bus: BusKind, settings: Mapping[str, str], folder: Path) -> AsyncIterator[Product]:
    """Run the processes that the bus asks for around the block; afterwards they are drained and ended.

    `settings` are EVENTSYNC_… variables: none of this process's own are passed on, and no .env file is read. Raises
    Transient where a process does not become ready.
    """
    pids: dict[str, int] = {}
    addresses: list[str] = []
    async with AsyncExitStack() as stack:
        for number, (name, roles) in enumerate(_PROCESSES[bus].items()):
            own = folder / str(number)
            own.mkdir()
            process = await stack.enter_async_context(_started(roles, settings, own))
            pids[name] = process.pid
            addresses.append(await _address(process, own / "log"))
            await _ready(process, addresses[-1], own / "log")
        yield Product(addresses[0], pids)


@asynccontextmanager
async def _started(
    roles: Sequence[str], settings: Mapping[str, str], folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    serves_webhooks = not roles or "ingress" in roles
    port_option = "--port" if serves_webhooks else "--health-port"
    others = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    own = {"EVENTSYNC_DATA_DIR": str(folder), "EVENTSYNC_LOG_FORMAT": "json"}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "eventsync", "run", *roles, port_option, "0",
            env={**others, **settings, **own},
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the benchmark, which stops its processes in order
        )  # fmt: skip
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    for number, within_s in ((signal.SIGTERM, _STOPS_WITHIN_S), (signal.SIGKILL, _KILLED_WITHIN_S)):
        if process.returncode is not None:
            return
        process.send_signal(number)
        try:
            async with asyncio.timeout(within_s):
                await process.wait()
        except TimeoutError:
            continue


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    """Wait until the process tells in its log on which free port it listens."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        if (address := _told_address(log)) is not None:
            return address
        await _wait_a_little(process, log, deadline)


async def _ready(process: asyncio.subprocess.Process, address: str, log: Path) -> None:
    """Wait until the process says that it is ready."""
    deadline = time.monotonic() + _READY_WITHIN_S
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while True:
            try:
                async with http.get(f"{address}/readyz") as answer:
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass  # it is still starting, or has ended: the next line finds out
            await _wait_a_little(process, log, deadline)


async def _wait_a_little(process: asyncio.subprocess.Process, log: Path, deadline: float) -> None:
    if process.returncode is not None or time.monotonic() > deadline:
        state = "did not get ready" if process.returncode is None else f"ended with {process.returncode}"
        raise Transient(f"a process of the benchmark {state}; its log ends:\n{_last_words(log)}")
    await asyncio.sleep(_POLL_S)


def _told_address(log: Path) -> str | None:
    for line in log.read_bytes().splitlines(keepends=True):
        if b'"listening"' in line and line.endswith(b"\n"):
            return str(orjson.loads(line)["address"])
    return None


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_WORDS:])
