"""A pretend practice that is connected to the installation of a command's test."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from cli.runs import Cli
from e2e.sandbox_truth import appointment_rows, expected_appointments
from eventsync.sandbox import QuotaLimits, RunningSandbox, Sandbox, SandboxOptions, ScriptedCall, serve

UNLIMITED = {"calls_per_minute": "1000000", "calls_per_day": "unlimited"}


@dataclass(frozen=True)
class Practice:
    """The pretend vendor, and the connection to it as `connections add` prints it."""

    running: RunningSandbox
    connection: dict[str, Any]

    @property
    def sandbox(self) -> Sandbox:
        return self.running.sandbox

    @property
    def calls(self) -> int:
        return sum(self.sandbox.stats.api_calls.values())

    async def require_true_copy(self, database: asyncpg.Connection) -> None:
        assert await appointment_rows(database) == expected_appointments(self.sandbox.truth("appointment"))

    async def stop_at(
        self, arguments: Sequence[str], env: Mapping[str, str], how: signal.Signals, **call: Any
    ) -> tuple[int | None, str]:
        """Run a command as a process of its own, and send it a signal while the vendor is asked for such a call.

        Answers its exit code and what it said on the standard error.
        """
        reached, gone = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            reached.set()
            await gone.wait()

        scripted = self.sandbox.script.add(ScriptedCall(before=hang, **call))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "eventsync", *arguments, env=env, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(60):
                await reached.wait()
                process.send_signal(how)
                _, said = await process.communicate()
        finally:
            gone.set()
            self.sandbox.script.remove(scripted)
        return process.returncode, said.decode()


@asynccontextmanager
async def connected_practice(
    cli: Cli, *, clients: int = 20, appointments: int = 60, settings: dict[str, str] = UNLIMITED
) -> AsyncIterator[Practice]:
    """Make a practice of organization `practice-7` and connect it; nothing has been read of it yet."""
    no_quota = QuotaLimits(per_minute=None, per_day=None)
    async with serve(SandboxOptions(clients=clients, appointments=appointments, quota=no_quota)) as running:
        words = ["--org", "practice-7", "--api-key", running.api_key, "--base-url", running.api_url]
        for name, value in settings.items():
            words += ["--set", f"{name}={value}"]
        added = await cli("connections", "add", "intakeq", *words, "--json")
        assert added.exit_code == 0, added.stderr
        yield Practice(running, added.json)
