"""`make test`: all tests in parts, two at a time, since much of what they do is wait; what measures time comes last.

Each part is a pytest of its own with servers of its own. Its output is kept, and shown in one piece when it has
ended, so that two never mix. Ctrl-C is passed on to the parts that run, which then stop their servers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TESTS = Path(__file__).resolve().parent
_PYTEST = (sys.executable, "-m", "pytest")
_AT_ONCE = 2
_SPEAKS_SQL = ("tests/postgres", "tests/stages")
# The longest first, so that both sides end together; folders that are not named here are in the part "the rest".
_FOLDERS = ("tests/e2e", "tests/stages", "tests/postgres", "tests/bus", "tests/simulation", "tests/cli", "tests/web")
# They hold bounds of milliseconds: nothing else may run meanwhile.
_ALONE = ("tests/e2e/test_latency.py", "tests/e2e/test_registration_latency.py")
_INTERRUPTED = 130  # as a shell says it of a command that Ctrl-C has ended


@dataclass(frozen=True, slots=True)
class Part:
    """One process, with `settings` added to its environment."""

    name: str
    command: Sequence[str]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part ended; of pytest, the last line tells how many passed."""

    name: str
    exit_code: int
    seconds: float
    last_line: str


class Runner:
    """Runs parts, some at once, and shows what each has said when it has ended."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.is_interrupted = False
        self._running: set[asyncio.subprocess.Process] = set()

    @property
    def exit_code(self) -> int:
        """0 only where every part was run and has passed."""
        if self.is_interrupted:
            return _INTERRUPTED
        return 1 if any(part.exit_code for part in self.ended) else 0

    def interrupt(self) -> None:
        """Begin nothing more, and ask what runs to end, as Ctrl-C does."""
        self.is_interrupted = True
        for process in self._running:
            process.send_signal(signal.SIGINT)

    async def run(self, parts: Iterable[Part], *, at_once: int) -> None:
        """Run all parts, begun in this order; returns when the last has ended."""
        waiting = deque(parts)

        async def one_after_the_other() -> None:
            while waiting and not self.is_interrupted:
                await self._run_part(waiting.popleft())

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_after_the_other())

    async def _run_part(self, part: Part) -> None:
        _say(f"{part.name}: begins")
        began = time.monotonic()
        with tempfile.TemporaryFile() as output:
            process = await asyncio.create_subprocess_exec(
                *part.command,
                env={**os.environ, **part.settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C reaches it through `interrupt` only, so once
            )
            self._running.add(process)
            if self.is_interrupted:  # while it was being made
                process.send_signal(signal.SIGINT)
            exit_code = await process.wait()
            self._running.discard(process)
            output.seek(0)
            said = output.read().decode(errors="replace").rstrip()
        _say(f"\n######## {part.name}: exit status {exit_code}\n{said}\n")
        self.ended.append(Ended(part.name, exit_code, time.monotonic() - began, said.rpartition("\n")[2].strip("= ")))


def parts_at_once(oldest_postgres: str) -> list[Part]:
    """Divide all tests but those of `part_alone`; without `oldest_postgres` (a folder) nothing runs once more."""
    others = [f"--ignore={path}" for path in _ALONE]
    parts = [Part(folder, (*_PYTEST, folder, *others)) for folder in _FOLDERS]
    parts.append(Part("the rest", (*_PYTEST, "tests", *(f"--ignore={folder}" for folder in _FOLDERS))))
    if oldest_postgres:
        once_more = Part(
            f"once more on the PostgreSQL in {oldest_postgres}",
            (*_PYTEST, *_SPEAKS_SQL, "-m", "not rabbitmq"),
            {"EVENTSYNC_TEST_POSTGRES_BIN": oldest_postgres},
        )
        parts.insert(1, once_more)
    return parts


def part_alone() -> Part:
    """Return what comes last, with nothing beside it."""
    return Part("latency", (*_PYTEST, *_ALONE))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # a command prints


async def run_all() -> int:
    """Run all tests, and tell at the end how each part went; returns the exit code."""
    oldest_postgres = subprocess.check_output([_TESTS / "oldest-postgres"], text=True).strip()  # noqa: ASYNC221, S603
    runner = Runner()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, runner.interrupt)
    await runner.run(parts_at_once(oldest_postgres), at_once=_AT_ONCE)
    await runner.run([part_alone()], at_once=1)
    for part in runner.ended:
        _say(f"{part.seconds:5.0f} s  exit status {part.exit_code}  {part.name}: {part.last_line}")
    return runner.exit_code


if __name__ == "__main__":
    os.chdir(_TESTS.parent)
    sys.exit(asyncio.run(run_all()))
