"""The product as its users run it: a process of its own, started by its command line, watched through its probes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from servers.eventually import eventually

ENCRYPTION_KEYS = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="  # the keys of the tests' keyring


def environment(folder: Path, database_url: str, amqp_url: str | None = None) -> dict[str, str]:
    """Make the settings of a process, and nothing of the developer's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    broker = {} if amqp_url is None else {"EVENTSYNC_AMQP_URL": amqp_url}
    return (
        own
        | broker
        | {
            "EVENTSYNC_DATABASE_URL": database_url,
            "EVENTSYNC_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "EVENTSYNC_DATA_DIR": str(folder),
            "EVENTSYNC_LOG_FORMAT": "json",
        }
    )


class EventsyncProcess:
    """One running `eventsync …`; what it says goes to `log_path`."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log_path: Path, port: int) -> None:
        self.arguments = tuple(arguments)
        self.base_url = f"http://127.0.0.1:{port}"
        self.log_path = log_path
        self._env = dict(env)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *, ready_within_s: float = 30.0) -> None:
        """Start it and wait until it says that it is ready."""
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "eventsync", *self.arguments, env=self._env, stdout=log, stderr=log
            )
        await eventually(self.is_ready, ready_within_s)

    async def is_ready(self) -> bool:
        """Ask its readiness probe."""
        if self._process is None or self._process.returncode is not None:
            raise RuntimeError(f"it ended: {self.log_path.read_text()}")
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"{self.base_url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def stop(self, *, within_s: float = 30.0) -> int:
        """Ask it to stop, as an operator would, and give its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within_s):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it without a chance to say a word."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
