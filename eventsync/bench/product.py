"""eventsync as its users run it, for the benchmark: processes of their own, started by their command, and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
    commands = _PROCESSES[bus]
    processes: list[asyncio.subprocess.Process] = []
    logs = [folder / str(number) / "log" for number in range(len(commands))]
    try:
        for roles, log in zip(commands.values(), logs, strict=True):
            processes.append(await _start(roles, settings, log))
        addresses = await asyncio.gather(*(_ready(*each) for each in zip(processes, logs, strict=True)))
        yield Product(addresses[0], {name: each.pid for name, each in zip(commands, processes, strict=True)})
    finally:
        await _stop(processes)


async def _start(roles: Sequence[str], settings: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
    serves_webhooks = not roles or "ingress" in roles
    port_option = "--port" if serves_webhooks else "--health-port"
    others = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    own = {"EVENTSYNC_DATA_DIR": str(log.parent), "EVENTSYNC_LOG_FORMAT": "json"}
    with _open_log(log) as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "eventsync", "run", *roles, port_option, "0",
            env={**others, **settings, **own},
            cwd=log.parent,  # where no .env file is
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the benchmark, which stops its processes in order
        )  # fmt: skip


async def _stop(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """Ask them to drain and end, and end those that take too long."""
    for number, within_s in ((signal.SIGTERM, _STOPS_WITHIN_S), (signal.SIGKILL, _KILLED_WITHIN_S)):
        running = [process for process in processes if process.returncode is None]
        for process in running:
            process.send_signal(number)
        try:
            async with asyncio.timeout(within_s):
                for process in running:
                    await process.wait()
        except TimeoutError:
            continue


async def _ready(process: asyncio.subprocess.Process, log: Path) -> str:
    """Wait until the process says that it is ready, and answer where it listens."""
    deadline = time.monotonic() + _READY_WITHIN_S
    address = None
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        while True:
            address = address or _told_address(log)
            if address is not None and await _is_ready(http, address):
                return address
            if process.returncode is not None or time.monotonic() > deadline:
                state = "did not get ready" if process.returncode is None else f"ended with {process.returncode}"
                raise Transient(f"a process of the benchmark {state}; its log ends:\n{_last_words(log)}")
            await asyncio.sleep(_POLL_S)


async def _is_ready(http: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with http.get(f"{address}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):  # it is still starting, or has ended
        return False


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir()
    return path.open("wb")


def _told_address(log: Path) -> str | None:
    for line in log.read_bytes().splitlines(keepends=True):
        if b'"listening"' in line and line.endswith(b"\n"):
            return str(orjson.loads(line)["address"])
    return None


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_WORDS:])
