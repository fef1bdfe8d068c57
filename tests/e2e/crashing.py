"""The product's process that dies at a crash point, and is started again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from e2e.crash_points import CrashPoint
from servers.eventually import eventually
from servers.ports import free_ports

_TESTS = Path(__file__).parents[1]
_DIES_WITHIN_S = 30.0


class Crashing:
    """The product's process on one port and one data folder, started again and again; its log is kept in `folder`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        (port,) = free_ports(1)
        self.base_url = f"http://127.0.0.1:{port}"
        self._port = port
        self._env = dict(env)
        self._log = folder / "process.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, point: CrashPoint | None = None) -> None:
        """Start it, to die at `point`, and wait until it is ready."""
        arguments = [str(self._port)] if point is None else [str(self._port), point.name]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "e2e.crash_process", *arguments, cwd=_TESTS, env=self._env, stdout=log, stderr=log
            )
        await eventually(self._is_ready, 30)

    async def died(self) -> None:
        """Wait until it has killed itself."""
        assert self._process is not None
        async with asyncio.timeout(_DIES_WITHIN_S):
            assert await self._process.wait() == -signal.SIGKILL, self._log.read_text()

    async def stop(self) -> int:
        """End it in an orderly way, and give its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(f"it ended: {self._log.read_text()}")
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.base_url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def crashing(folder: Path, env: Mapping[str, str]) -> AsyncIterator[Crashing]:
    process = Crashing(folder, env)
    try:
        yield process
    finally:
        await process.kill()
