"""Processes that deliver side by side, each killed at any moment and started again, until the block is left."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from servers.eventually import eventually

_TESTS = Path(__file__).parents[1]
_KNOWN_WITHIN_S = 30.0


@dataclass(slots=True)
class _Slot:
    """One place for a process. `key` is of the attempt that its process began last, None before the first."""

    process: asyncio.subprocess.Process | None = None
    key: str | None = None
    was_killed: bool = False


class Deliverers:
    """The processes; `kills` counts those that were killed by a test, each of which has been replaced."""

    def __init__(self, tasks: asyncio.TaskGroup, arguments: Sequence[str], log_path: Path) -> None:
        self.kills = 0
        self._tasks = tasks
        self._arguments = tuple(arguments)
        self._log_path = log_path
        self._slots: list[_Slot] = []
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Add a process, and replace it whenever it was killed."""
        self._slots.append(_Slot())
        self._keepers.append(self._tasks.create_task(self._keep(self._slots[-1])))

    def end(self) -> None:
        """Let every process be ended, and none be started any more."""
        for keeper in self._keepers:
            keeper.cancel()

    def kill_one(self, rng: Random, after_s: float) -> None:
        """Kill any of them that runs, in a moment."""

        async def kill() -> None:
            await asyncio.sleep(after_s)  # no wait for anything: whatever it does then is what it is killed in
            running = await eventually(lambda: [slot for slot in self._slots if _runs(slot)], _KNOWN_WITHIN_S)
            self._kill(rng.choice(running))

        self._tasks.create_task(kill())

    async def kill_sender(self, key: str | None) -> None:
        """Kill the one that sends the item of that key."""
        self._kill(await self._sender(key))

    async def kill_deaf_sender(self, key: str | None, is_answered: Callable[[], bool]) -> None:
        """Stop the one that sends the item of that key, and kill it once `is_answered`: it never hears the answer."""
        slot = await self._sender(key)
        assert slot.process is not None
        slot.process.send_signal(signal.SIGSTOP)

        async def kill() -> None:
            await eventually(is_answered)
            self._kill(slot)

        self._tasks.create_task(kill())

    async def _sender(self, key: str | None) -> _Slot:
        assert key is not None
        found = await eventually(
            lambda: [slot for slot in self._slots if slot.key == key and _runs(slot)], _KNOWN_WITHIN_S
        )
        return found[0]

    def _kill(self, slot: _Slot) -> None:
        assert slot.process is not None
        slot.was_killed = True
        slot.process.kill()
        self.kills += 1

    async def _keep(self, slot: _Slot) -> None:
        while True:
            with self._log_path.open("ab") as log:
                slot.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "stages.deliverer_process", *self._arguments),
                    cwd=_TESTS,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                )
            slot.was_killed = False
            try:
                await self._follow(slot, slot.process)
            finally:
                if slot.process.returncode is None:
                    slot.process.kill()
                    await slot.process.wait()
            if not slot.was_killed:
                raise RuntimeError(f"a deliverer ended by itself: {self._log_path.read_text()}")

    async def _follow(self, slot: _Slot, process: asyncio.subprocess.Process) -> None:
        """Note what it begins to send, until it has ended."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            slot.key = line.decode().strip()
        await process.wait()
        slot.key = None


@asynccontextmanager
async def delivering(arguments: Sequence[str], log_path: Path) -> AsyncIterator[Deliverers]:
    """Let processes be started and killed within the block; when it is left, all of them have ended."""
    async with asyncio.TaskGroup() as tasks:
        deliverers = Deliverers(tasks, arguments, log_path)
        try:
            yield deliverers
        finally:
            deliverers.end()


def _runs(slot: _Slot) -> bool:
    return slot.process is not None and slot.process.returncode is None and not slot.was_killed
