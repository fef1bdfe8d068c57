"""Processes that a contender starts: eventsync as a user starts it, or another server; watched, measured, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench.profiled import PROFILES
from servers.eventually import eventually

_READY_WITHIN_S = 30.0
_STOPS_WITHIN_S = 30.0


def python(name: str, module: str, *arguments: str) -> list[str]:
    """Write the command that runs a module of this interpreter, profiled as `name` where profiles are wanted."""
    folder = os.environ.get(PROFILES)
    watched = ["bench.profiled", str(Path(folder) / f"{name}.txt"), module] if folder else [module]
    return [sys.executable, "-m", *watched, *arguments]


@asynccontextmanager
async def running(
    command: Sequence[str], environment: Mapping[str, str], *, ready_url: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process around a block, which begins once `ready_url` answers 200; it is asked to stop afterwards.

    Its output goes to our standard error. Raises RuntimeError where it ends by itself.
    """
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, stdout=sys.stderr)
    try:
        if ready_url:
            await eventually(lambda: _is_ready(process, ready_url), _READY_WITHIN_S)
        yield process
        if process.returncode is not None:
            raise RuntimeError(f"a process ended by itself, with {process.returncode}; see its output above")
    finally:
        await _stop(process)


async def _is_ready(process: asyncio.subprocess.Process, url: str) -> bool:
    if process.returncode is not None:
        raise RuntimeError(f"a process ended with {process.returncode} instead of starting; see its output above")
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOPS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
